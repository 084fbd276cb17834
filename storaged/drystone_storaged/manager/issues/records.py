"""What in the metadata store cannot be used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from drystone_storaged.cluster.maprecords import Kind
from drystone_storaged.manager.issues.look import NAMES_MAX, Moment
from drystone_storaged.manager.problems import Problem, Severity

KEY_MAX: Final = 80  # of a strange key in a sentence; ours are shorter


def of_records(at: Moment) -> Iterator[Problem]:
    """Each unreadable record; foreign keys are told of together."""
    for one in at.state.refused:
        if one.kind is not Kind.FOREIGN:
            what = f"{one.kind.value} {one.number}"
            yield Problem(
                "record_unreadable",
                Severity.CRITICAL,
                f"the record {one.key} in the metadata store cannot be read ({one.why})",
                f"nothing about {what} is changed or attached until it can, the others go on; find "
                "out who wrote there and put back exactly the value that it had before",
                "it keeps serving what it knew before; what fails there from now on is not "
                "replaced",
                (what,),
            )
    foreign = sorted(one.key for one in at.state.refused if one.kind is Kind.FOREIGN)
    if foreign:
        shown = ", ".join(repr(key[:KEY_MAX]) for key in foreign[:NAMES_MAX])
        yield Problem(
            "foreign_keys",
            Severity.WARNING,
            f"{len(foreign)} keys in the metadata store are none of this cluster's and are left "
            f"alone ({shown})",
            "find out who writes there, then remove them",
            "it passes them over",
        )
