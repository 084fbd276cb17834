"""Maintenance of a node: what a StorageNode announces is announced to the managers too.

They refuse it where the node's absence would stop somebody or risk a last copy, and make nothing
anew elsewhere while it lasts. One that a person announced by a command is left to that person.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from drystone_operator.plan.actions import Action, EndMaintenance, Maintain
from drystone_operator.plan.nodes import StorageNodeView
from drystone_operator.plan.views import EngineView, MaintenanceView
from drystone_operator.status import Condition

MARK: Final = " (StorageNode)"
"""How a record that came from an object ends: any other one is a person's own."""

REASON_MAX: Final = 200  # of the managers
FOR_MIN_S: Final = 60  # of the managers: less needs no announcement
FOR_MAX_S: Final = 7 * 86_400  # of the managers: a longer one is announced again as it goes on
CLOSE_S: Final = 60
"""Times that are nearer to each other are the same: clocks of two machines differ."""
AGAIN_S: Final = 86_400  # how much of a long one may pass before it is announced again


def plan(
    one: StorageNodeView, engine: EngineView, now: datetime
) -> tuple[Action | None, Condition]:
    """What to tell a manager, and what to say if that goes well."""
    server = engine.node("server", one.node)
    record = server.maintenance if server is not None else None
    ours = record is not None and record.reason.endswith(MARK)
    if server is None or one.until is None or one.until <= now:
        return _none(one, record, ours=ours)
    text = f"In maintenance until {one.until:%Y-%m-%d %H:%M %Z}: {one.maintenance}."
    granted = Condition("Maintenance", True, "Granted", text)
    left = (one.until - now).total_seconds()
    if left < FOR_MIN_S or (record is not None and not ours and not record.ended):
        return None, granted
    wanted = now.timestamp() + min(left, FOR_MAX_S)
    close = CLOSE_S if left <= FOR_MAX_S else AGAIN_S
    if record is not None and not record.ended and abs(record.until_s - wanted) <= close:
        return None, granted
    return Maintain(one.node, one.until, reason(one)), granted


def reason(one: StorageNodeView) -> str:
    """The object's reason, with the mark that it is an object's."""
    return one.maintenance[: REASON_MAX - len(MARK)] + MARK


def _none(
    one: StorageNodeView, record: MaintenanceView | None, *, ours: bool
) -> tuple[Action | None, Condition]:
    if record is None or record.ended:
        return None, Condition("Maintenance", False, "None", "None is announced.")
    if not ours:
        text = f"Announced by a command: {record.reason or 'no reason given'}."
        return None, Condition("Maintenance", True, "ByCommand", text)
    if one.until is None:
        text = "It was taken back; the managers are told that it is over."
        return EndMaintenance(one.node), Condition("Maintenance", False, "Ended", text)
    text = "Its time is over. Set another `until`, or take spec.maintenance away."
    return None, Condition("Maintenance", False, "Over", text)


def refused(reason: str) -> Condition:
    """What to say where the managers would not have the node away."""
    text = f"{reason}. The node's absence moves no pods all the same; better wait."
    return Condition("Maintenance", False, "Unsafe", text)
