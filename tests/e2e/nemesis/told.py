"""What managers wrote to their logs about members, and what engines counted, since a moment.

Both only rise. A process that was started again counts from 0: then what it has is added, so a
sum never falls; what a killed one had counted since the last look is not known.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import httpx

from tests.e2e.nemesis.conf import METRICS, role_of
from tests.e2e.nemesis.settings import Lab, address, processes

DROPS: Final = ("server process is dead", "dropping a silent node", "dropping a drive")
JOINS: Final = ("drives joined",)
COUNTED: Final = ("server", "block")
AGAIN_S: Final = 2.0  # who was dropped is not back sooner
SCRAPE_S: Final = 2.0  # milliseconds of a process that lives; one that is stopped never answers
_COUNT: Final = re.compile(r"^drystone_\w+_engine_count\{(.+)\} ([0-9.e+]+)$", re.MULTILINE)
_NAME: Final = re.compile(r'counter="(\w+)"')
_P99: Final = re.compile(r"^drystone_server_drive_p99_seconds\{.+\} ([0-9.e+-]+)$", re.MULTILINE)
_PGS: Final = re.compile(r'^drystone_manager_pgs\{.*state="(\w+)".*\} ([0-9.e+]+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Told:
    """Something that a manager did about a member. ``at``: seconds of the clock on the wall."""

    event: str
    who: str
    text: str
    at: float = 0.0


class ManagerLogs:
    """Reads what managers add to their logs."""

    def __init__(self, lab: Lab) -> None:
        self._paths = [lab.log / f"manager-{group}.log" for group in lab.manager_groups]
        self._read: dict[Path, int] = {}

    def news(self) -> list[Told]:
        """Drops and joins since the last time."""
        return [told for path in self._paths for told in self._of(path)]

    def _of(self, path: Path) -> Iterator[Told]:
        if not path.exists():
            return
        with path.open("rb") as log:
            log.seek(self._read.get(path, 0))
            data = log.read()
        whole = data.rfind(b"\n") + 1  # a line that is being written is read the next time
        self._read[path] = self._read.get(path, 0) + whole
        for line in data[:whole].splitlines():
            told = _told(line)
            if told is not None:
                yield told


def _told(line: bytes) -> Told | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None  # a traceback, or what another library prints
    if not isinstance(said, dict) or said.get("event") not in {*DROPS, *JOINS}:
        return None
    known = ("node", "drive", "drives", "pgs", "reason", "timestamp")
    text = ", ".join(f"{key} {said[key]}" for key in known if key in said)
    who = said.get("drives", [said["drive"]] if "drive" in said else said.get("pgs"))
    at = datetime.fromisoformat(said["timestamp"]).timestamp() if "timestamp" in said else 0.0
    return Told(said["event"], str(who), text, at)


def once(found: Iterable[Told]) -> list[Told]:
    """Of what is told again because several asked for it, the first only."""
    kept: dict[str, Told] = {}
    firsts = []
    for each in found:
        last = kept.get(each.who)
        if last is None or each.at - last.at > AGAIN_S:
            firsts.append(each)
        kept[each.who] = each
    return firsts


class Meters:
    """Sums of the engines' counters over all processes that answer."""

    def __init__(self, lab: Lab) -> None:
        self._urls = {
            name: f"http://{address(group)}:{METRICS[role_of(name)]}/metrics"
            for name, group in processes(lab).items()
            if role_of(name) in COUNTED
        }
        self._managers = [
            f"http://{address(group)}:{METRICS['manager']}/metrics" for group in lab.manager_groups
        ]
        # Kept: a connection of its own for each question costs more than the answer.
        self._http = httpx.Client(trust_env=False, timeout=SCRAPE_S)
        self._last: dict[tuple[str, str], float] = {}
        self._sums: Counter[str] = Counter()

    def close(self) -> None:
        """Give up the connections."""
        self._http.close()

    def look(self) -> Mapping[str, int]:
        """Sums so far: ``server.nack_gen`` and so on."""
        for process, url in self._urls.items():
            for labels, name, value in self._scraped(url):
                before = self._last.get((process, labels), 0.0)
                self._last[process, labels] = value
                self._sums[f"{role_of(process)}.{name}"] += int(
                    value - before if value >= before else value
                )
        return dict(self._sums)

    def pg_states(self) -> Counter[str]:
        """Placement groups by state as the leader knows them, empty without one.

        From its memory: a question for the status reads the map from etcd wherever it has just
        changed, and while a copy runs it changes all the time.
        """
        found: Counter[str] = Counter()
        for url in self._managers:
            text = self._text(url)
            found.update({state: int(float(count)) for state, count in _PGS.findall(text)})
        return found

    def of(self, process: str, name: str) -> int:
        """One process' counter as it stands; 0 where it does not answer."""
        found = self._scraped(self._urls[process])
        return int(sum(value for _, counter, value in found if counter == name))

    def drive_p99_s(self, process: str) -> float:
        """What 99 of 100 operations of a server's drives took at most, as it told last."""
        return max(map(float, _P99.findall(self._text(self._urls[process]))), default=0.0)

    def _scraped(self, url: str) -> list[tuple[str, str, float]]:
        found = []
        for labels, value in _COUNT.findall(self._text(url)):
            name = _NAME.search(labels)
            if name is not None:
                found.append((labels, name[1], float(value)))
        return found

    def _text(self, url: str) -> str:
        try:
            return self._http.get(url).text
        except httpx.HTTPError:
            return ""
