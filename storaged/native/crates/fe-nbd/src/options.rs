//! Parsing of option bodies: lengths are checked before anything is taken.

use crate::proto;

/// Takes `n` bytes off the front.
fn take<'a>(rest: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(n)?;
    *rest = tail;
    Some(head)
}

fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u16::from_be_bytes(*head))
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(u32::from_be_bytes(*head))
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_u32(rest)? as usize;
    if len > proto::NAME_MAX {
        return None;
    }
    take(rest, len)
}

/// Body of INFO and GO: the export's name and which details the client wants.
pub(crate) struct InfoRequest<'a> {
    pub name: &'a [u8],
    pub wants_name: bool,
    pub wants_description: bool,
}

pub(crate) fn parse_info(body: &[u8]) -> Option<InfoRequest<'_>> {
    let mut rest = body;
    let name = take_string(&mut rest)?;
    let count = take_u16(&mut rest)?;
    let mut request = InfoRequest { name, wants_name: false, wants_description: false };
    for _ in 0..count {
        match take_u16(&mut rest)? {
            proto::INFO_NAME => request.wants_name = true,
            proto::INFO_DESCRIPTION => request.wants_description = true,
            _ => {}
        }
    }
    rest.is_empty().then_some(request)
}

/// Body of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) struct MetaRequest<'a> {
    pub name: &'a [u8],
    /// No query at all: for LIST that means "everything".
    pub empty: bool,
    /// A query names our context exactly.
    pub exact: bool,
    /// A query names the whole `base:` namespace: only LIST may answer it.
    pub namespace: bool,
}

pub(crate) fn parse_meta(body: &[u8]) -> Option<MetaRequest<'_>> {
    let mut rest = body;
    let name = take_string(&mut rest)?;
    let count = take_u32(&mut rest)?;
    let mut request = MetaRequest { name, empty: count == 0, exact: false, namespace: false };
    for _ in 0..count {
        let query = take_string(&mut rest)?;
        request.exact |= query == proto::CONTEXT.as_bytes();
        request.namespace |= query == b"base:";
    }
    rest.is_empty().then_some(request)
}
