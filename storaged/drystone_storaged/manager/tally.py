"""What this manager counted since it started; shown by its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_common.metrics import PREFIX
from drystone_common.pace import Pace

log = get_logger(__name__)

CODES_MAX: Final = 500
"""Codes are words of our own programs, some hundred; a defect must not make labels without end."""


TOLD_KINDS: Final = frozenset({"unauthenticated", "denied"})
TOLD_OF_CONTROL: Final = frozenset({"invalid_argument", "already_exists"})
"""On the control channel only our own programs call: what is malformed or claims another's place
is worth a line there. REST has people at the other end, who are told in the answer."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts by label."""

    refused_calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By interface (``rest``, ``control``) and code."""
    drops: Counter[str] = field(default_factory=Counter)
    joins: Counter[str] = field(default_factory=Counter)
    promotions: Counter[str] = field(default_factory=Counter)
    suspicions: Counter[str] = field(default_factory=Counter)
    pace: Pace = field(default_factory=Pace)

    def refused_call(self, interface: str, error: DrystoneError, caller: str) -> None:
        """A call was not carried out; of a stranger's a line says so."""
        self.refused(interface, error.code)
        kinds = TOLD_KINDS | TOLD_OF_CONTROL if interface == "control" else TOLD_KINDS
        if error.kind not in kinds:
            return
        count = self.pace.due((interface, error.code), self.refused_calls[interface, error.code])
        if count:
            log.warning(
                "calls_refused", interface=interface, code=error.code, count=count,
                caller=caller, reason=error.message,
            )  # fmt: skip

    def refused(self, interface: str, code: str) -> None:
        """A call was not carried out."""
        key = (interface, code)
        known = key in self.refused_calls or len(self.refused_calls) < CODES_MAX
        self.refused_calls[key if known else (interface, "other")] += 1


FAMILIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "refused_calls": (
        "Calls that were not carried out, by interface and code.", ("interface", "code")
    ),
    "drops": ("Drives dropped from placement groups, by reason.", ("reason",)),
    "joins": ("Drives that began to copy for a placement group.", ()),
    "promotions": ("Drives that came in sync in a placement group.", ()),
    "suspicions": ("Suspicions of silent or still nodes, by outcome.", ("outcome",)),
}  # fmt: skip
"""Of each field its help and labels; the names of metrics are those of the fields."""


class TallyCollector(Collector):
    """The tally as Prometheus wants it."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally

    def collect(self) -> Iterable[Metric]:
        """Every family, also when nothing was counted yet."""
        for name, (text, labels) in FAMILIES.items():
            family = CounterMetricFamily(f"{PREFIX}_manager_{name}", text, labels=labels)
            counts: Counter[str] | Counter[tuple[str, str]] = getattr(self._tally, name)
            if not labels:
                family.add_metric((), float(sum(counts.values())))
            else:
                for key, count in sorted(counts.items()):
                    family.add_metric((key,) if isinstance(key, str) else key, float(count))
            yield family
