//! SESSION: the first frame on a connection (docs/wire-protocol.md).

use drystone_types::codec::{Reader, Writer};
use drystone_types::{AttachMode, DriveId, Frame, Gen, Header, MsgType, Rev, Status, VolumeId};

/// The request, with the issued slots of every attached volume: also none is worth saying, it
/// frees what the drive kept reserved since its last open.
pub fn request(
    drive: DriveId,
    (feature_level, incarnation, map_rev): (u32, u32, Rev),
    restated: impl Iterator<Item = (VolumeId, Gen, u32)>,
) -> Frame {
    let restated: Vec<_> = restated.collect();
    let mut w = Writer::new();
    w.u32(feature_level).u32(incarnation).u64(map_rev.0).count(restated.len());
    for (vol, gen, slots) in restated {
        w.u64(vol.0).u32(gen.0).u32(slots);
    }
    let hdr = Header { kind: MsgType::Session, request: 1, drive, map_rev, ..Header::default() };
    Frame::with_meta(hdr, w.finish())
}

/// The drive's open nonce from its answer; `None` when it refused or the answer is malformed.
pub fn answered(frame: &Frame) -> Option<u64> {
    if frame.hdr.status != Status::Ok {
        return None;
    }
    let mut r = Reader::new(&frame.meta);
    let (_feature_level, _incarnation, _drive) = (r.u32().ok()?, r.u32().ok()?, r.u32().ok()?);
    r.u64().ok()
}

/// Whether a sequencer may start without A2-A5. A second one of a writer's generation would give out
/// its versions again, and servers take those for written already: acknowledged writes would be lost.
pub fn may_start(mode: AttachMode, recover: bool) -> Result<(), &'static str> {
    match mode {
        AttachMode::ReadWrite | AttachMode::Service if !recover => {
            Err("a writer needs a generation of its own: detach the volume, then attach it again")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_never_starts_in_a_generation_that_was_active() {
        assert!(may_start(AttachMode::ReadWrite, false).is_err());
        assert!(may_start(AttachMode::Service, false).is_err());
        assert!(may_start(AttachMode::ReadWrite, true).is_ok());
        assert!(may_start(AttachMode::ReadOnly, false).is_ok(), "readers share a generation");
    }

    #[test]
    fn every_attached_volume_is_restated() {
        let volumes = [(VolumeId(1), Gen(1), 0), (VolumeId(2), Gen(3), 7)];
        let frame = request(DriveId(4), (1, 2, Rev(3)), volumes.into_iter());
        assert_eq!(frame.meta.len(), 20 + 2 * 16);
    }

    #[test]
    fn a_refused_or_short_answer_gives_no_nonce() {
        let mut frame = Frame::bare(Header { kind: MsgType::Session, ..Header::default() });
        assert_eq!(answered(&frame), None);
        frame.meta = vec![1; 21];
        assert_eq!(answered(&frame), Some(0x0101_0101_0101_0101));
        frame.hdr.status = Status::Denied;
        assert_eq!(answered(&frame), None);
    }
}
