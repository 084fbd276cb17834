"""Tells block daemons what happened to their attachments; a courtesy, safety never needs it."""

from __future__ import annotations

from drystone_storaged.cluster.records import Volume
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.proto import control_pb2 as pb


def tell_revoked(sessions: SessionRegistry, before: Volume, after: Volume) -> None:
    """Attachments that were in the record and are not any more."""
    for gone in (a for a in before.attachments if a not in after.attachments):
        if any((a.client, a.nonce) == (gone.client, gone.nonce) for a in after.attachments):
            continue
        session = sessions.get(("client", gone.client))
        if session is not None:
            revoked = pb.AttachmentRevoked(
                volume=after.id, nonce=gone.nonce, generation=after.generation
            )
            session.send(pb.SessionDown(revoked=revoked))


def tell_changed(sessions: SessionRegistry, volume: Volume) -> None:
    """There is a newer ticket."""
    for attachment in volume.attachments:
        session = sessions.get(("client", attachment.client))
        if session is not None:
            changed = pb.VolumeChanged(volume=volume.id, ticket_serial=volume.ticket_serial)
            session.send(pb.SessionDown(changed=changed))
