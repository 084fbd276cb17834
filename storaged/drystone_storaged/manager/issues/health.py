"""Drives that are out because they were slow, until they pass a test or a person decides."""

from __future__ import annotations

from drystone_storaged.cluster.records import Drive, DriveHealth
from drystone_storaged.manager.issues.look import Moment
from drystone_storaged.manager.problems import Problem, Severity


def against(at: Moment, drive: Drive) -> Problem | None:
    """What is held against a drive that is down."""
    health = at.seen.health.get(drive.id)
    if health is None or drive.id not in at.down:
        return None
    if health.ejected:
        return _ejected(at, drive, health)
    # One that is away with its node is not waited for because of a test.
    return _slow(drive, health) if health.held and drive.node_name not in at.away else None


def _ejected(at: Moment, drive: Drive, health: DriveHealth) -> Problem:
    last = f", at last {health.strikes[-1].reason}" if health.strikes else ""
    return Problem(
        "drive_ejected",
        Severity.WARNING,
        f"drive {drive.id} on {drive.node_name} is ejected, it was slow or hung "
        f"{len(health.strikes)} times in a day{last}",
        f"replace the disk, then `drystone drive forget {drive.id} --yes`; if the cause was "
        f"another one and is cured, `drystone drive retest {drive.id} --forgive`",
        _elsewhere(at, drive),
        _objects(drive),
    )


def _elsewhere(at: Moment, drive: Drive) -> str:
    """Where the copies go that it had: not all of them may have a place."""
    pools, short = at.state.pools, set(at.seen.outlook.stuck)
    left = [ref for ref, record in at.state.known_pgs().items() if drive.id in record.target]
    never = sum(not pools[ref.pool].out_time_s for ref in left)
    stuck = sum(bool(pools[ref.pool].out_time_s) and ref in short for ref in left)
    if not left:
        return "the places that it had are given to other drives"
    stay = [f"{never} PGs wait for a person (`out_time` 0)"] if never else []
    stay += [f"{stuck} PGs wait, no other domain has a drive for them"] if stuck else []
    if len(left) == never + stuck:
        return f"nothing of it is copied elsewhere: {' and '.join(stay)}; the other copies serve"
    return "; ".join(["what it held is copied to other drives, where there is room", *stay])


def _slow(drive: Drive, health: DriveHealth) -> Problem:
    why = health.strikes[-1].reason if health.strikes else "it was slow"
    tests = f"; failed {health.tries} tests, at last {health.last}" if health.tries else ""
    return Problem(
        "drive_slow",
        Severity.WARNING,
        f"drive {drive.id} on {drive.node_name} is out ({why}{tests})",
        f"see docs/runbooks/drive-failing.md if that lasts; `drystone drive retest {drive.id}` "
        "tests it now",
        "it is tested after 10 s, then after 60 s, then each 10 minutes, and comes back if it "
        "does well",
        _objects(drive),
    )


def _objects(drive: Drive) -> tuple[str, str]:
    return f"drive {drive.id}", f"node {drive.node_name}"
