"""What is wrong, by kind of thing; each module yields problems and looks at nothing but a moment.

No reading of the store, no clock: ``look.Moment`` has all that is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import Node
from drystone_storaged.manager.issues.drives import of_drives, of_places
from drystone_storaged.manager.issues.groups import of_groups
from drystone_storaged.manager.issues.look import Seen, look
from drystone_storaged.manager.issues.moves import of_moves
from drystone_storaged.manager.issues.nodes import (
    of_beacons,
    of_claims,
    of_clients,
    of_nodes,
    of_paths,
    of_voters,
)
from drystone_storaged.manager.issues.pools import of_pools
from drystone_storaged.manager.issues.records import of_records
from drystone_storaged.manager.issues.scrubs import of_differences, of_scrubs
from drystone_storaged.manager.problems import Problem, Severity

__all__ = ["Seen", "find_problems"]


def find_problems(
    state: MapState, servers: Sequence[Node], counts: Counter[str], seen: Seen
) -> list[Problem]:
    """Every problem: all critical ones first, and of each gravity what explains others first."""
    at = look(state, servers, counts, seen)
    found = [
        *of_records(at),
        *of_groups(at),
        *of_differences(at),
        *of_nodes(at),
        *of_beacons(at),
        *of_voters(at),
        *of_clients(at),
        *of_paths(at),
        *of_claims(at),
        *of_places(at),
        *of_drives(at),
        *of_moves(at),
        *of_scrubs(at),
        *of_pools(at),
    ]
    return sorted(found, key=lambda problem: problem.severity is not Severity.CRITICAL)
