//! Fixed newstyle negotiation: greeting, client flags, options.

use crate::options::{parse_info, parse_meta};
use crate::session::SessionError;
use crate::{proto, Export, Sink};

/// What negotiation has agreed on so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreed {
    pub structured: bool,
    pub allocation: bool,
    pub no_zeroes: bool,
    pub options: u32,
}

/// Where an option leads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Negotiate,
    Transmit,
    Close,
}

pub(crate) fn greet(out: &mut impl Sink) {
    out.bytes(&proto::MAGIC_SERVER.to_be_bytes());
    out.bytes(&proto::MAGIC_OPTION.to_be_bytes());
    out.bytes(&(proto::FLAG_FIXED_NEWSTYLE | proto::FLAG_NO_ZEROES).to_be_bytes());
}

/// The client's four flag bytes.
pub(crate) fn client_flags(flags: u32, agreed: &mut Agreed) -> Result<(), SessionError> {
    let known = u32::from(proto::FLAG_FIXED_NEWSTYLE | proto::FLAG_NO_ZEROES);
    if flags & !known != 0 || flags & u32::from(proto::FLAG_FIXED_NEWSTYLE) == 0 {
        return Err(SessionError::ClientFlags(flags));
    }
    agreed.no_zeroes = flags & u32::from(proto::FLAG_NO_ZEROES) != 0;
    Ok(())
}

fn answer(out: &mut impl Sink, option: u32, kind: u32, body: &[&[u8]]) {
    let len: usize = body.iter().map(|part| part.len()).sum();
    out.bytes(&proto::MAGIC_OPTION_REPLY.to_be_bytes());
    out.bytes(&option.to_be_bytes());
    out.bytes(&kind.to_be_bytes());
    // Bodies are names and fixed records of this program, far below 4 GiB.
    out.bytes(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
    for part in body {
        out.bytes(part);
    }
}

/// Tells the client that its option is larger than this server reads; the caller then closes.
pub(crate) fn refuse_too_big(out: &mut impl Sink, option: u32) {
    answer(out, option, proto::REP_ERR_TOO_BIG, &[b"option is too large"]);
}

/// Carries out one whole option.
pub(crate) fn option(
    option: u32,
    body: &[u8],
    export: &Export,
    agreed: &mut Agreed,
    out: &mut impl Sink,
) -> Result<Next, SessionError> {
    match option {
        proto::OPT_EXPORT_NAME => return export_name(body, export, agreed, out),
        proto::OPT_GO | proto::OPT_INFO => return Ok(info(option, body, export, agreed, out)),
        proto::OPT_ABORT => {
            answer(out, option, proto::REP_ACK, &[]);
            return Ok(Next::Close);
        }
        proto::OPT_LIST => list(body, export, out),
        proto::OPT_STRUCTURED_REPLY => structured(body, agreed, out),
        proto::OPT_LIST_META | proto::OPT_SET_META => meta(option, body, export, agreed, out),
        proto::OPT_STARTTLS => {
            answer(out, option, proto::REP_ERR_POLICY, &[b"TLS is not offered on this socket"]);
        }
        _ => answer(out, option, proto::REP_ERR_UNSUP, &[b"option is not supported"]),
    }
    Ok(Next::Negotiate)
}

/// The old way in: it has no error reply, so an unknown name ends the connection.
fn export_name(body: &[u8], export: &Export, agreed: &Agreed, out: &mut impl Sink) -> Result<Next, SessionError> {
    if !export.matches(body) {
        return Err(SessionError::UnknownExport);
    }
    out.bytes(&export.size.to_be_bytes());
    out.bytes(&export.flags(agreed.structured).to_be_bytes());
    if !agreed.no_zeroes {
        out.bytes(&[0; 124]);
    }
    Ok(Next::Transmit)
}

fn info(option: u32, body: &[u8], export: &Export, agreed: &Agreed, out: &mut impl Sink) -> Next {
    let Some(request) = parse_info(body) else {
        answer(out, option, proto::REP_ERR_INVALID, &[b"malformed request"]);
        return Next::Negotiate;
    };
    if !export.matches(request.name) {
        answer(out, option, proto::REP_ERR_UNKNOWN, &[b"no such export"]);
        return Next::Negotiate;
    }
    let flags = export.flags(agreed.structured).to_be_bytes();
    answer(out, option, proto::REP_INFO, &[&proto::INFO_EXPORT.to_be_bytes(), &export.size.to_be_bytes(), &flags]);
    if request.wants_name {
        answer(out, option, proto::REP_INFO, &[&proto::INFO_NAME.to_be_bytes(), export.name.as_bytes()]);
    }
    if request.wants_description && !export.description.is_empty() {
        let kind = proto::INFO_DESCRIPTION.to_be_bytes();
        answer(out, option, proto::REP_INFO, &[&kind, export.description.as_bytes()]);
    }
    let sizes = [proto::BLOCK_MIN, proto::BLOCK_PREFERRED, proto::PAYLOAD_MAX].map(u32::to_be_bytes);
    let [min, preferred, max] = &sizes;
    answer(out, option, proto::REP_INFO, &[&proto::INFO_BLOCK_SIZE.to_be_bytes(), min, preferred, max]);
    answer(out, option, proto::REP_ACK, &[]);
    if option == proto::OPT_GO {
        Next::Transmit
    } else {
        Next::Negotiate
    }
}

fn list(body: &[u8], export: &Export, out: &mut impl Sink) {
    if !body.is_empty() {
        return answer(out, proto::OPT_LIST, proto::REP_ERR_INVALID, &[b"LIST takes no data"]);
    }
    let len = u32::try_from(export.name.len()).unwrap_or(0).to_be_bytes();
    answer(out, proto::OPT_LIST, proto::REP_SERVER, &[&len, export.name.as_bytes()]);
    answer(out, proto::OPT_LIST, proto::REP_ACK, &[]);
}

fn structured(body: &[u8], agreed: &mut Agreed, out: &mut impl Sink) {
    if !body.is_empty() {
        let text: &[u8] = b"STRUCTURED_REPLY takes no data";
        return answer(out, proto::OPT_STRUCTURED_REPLY, proto::REP_ERR_INVALID, &[text]);
    }
    agreed.structured = true;
    answer(out, proto::OPT_STRUCTURED_REPLY, proto::REP_ACK, &[]);
}

fn meta(option: u32, body: &[u8], export: &Export, agreed: &mut Agreed, out: &mut impl Sink) {
    let set = option == proto::OPT_SET_META;
    if set {
        // The last SET counts, also when it fails.
        agreed.allocation = false;
    }
    let request = match parse_meta(body) {
        Some(request) if agreed.structured => request,
        _ => return answer(out, option, proto::REP_ERR_INVALID, &[b"malformed, or before STRUCTURED_REPLY"]),
    };
    if !export.matches(request.name) {
        return answer(out, option, proto::REP_ERR_UNKNOWN, &[b"no such export"]);
    }
    if request.exact || (!set && (request.empty || request.namespace)) {
        let id = if set { proto::CONTEXT_ID } else { 0 };
        answer(out, option, proto::REP_META, &[&id.to_be_bytes(), proto::CONTEXT.as_bytes()]);
        agreed.allocation |= set;
    }
    answer(out, option, proto::REP_ACK, &[]);
}
