"""The network of a run: a bridge, a namespace and a cable for each group, and its faults.

    python -m tests.e2e.nemesis.net --self-test     each fault in turn, proven with datagrams

A fault names a direction: what ``src`` sends no longer reaches ``dst``, or late, or not always.
Each is counted; `Net.heal` ends all of them and keeps the counts.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.lib.shell import LabError, Started, run
from tests.e2e.nemesis import rules
from tests.e2e.nemesis.counts import Packets
from tests.e2e.nemesis.delays import Delay
from tests.e2e.nemesis.netns import argv_in
from tests.e2e.nemesis.rules import Cut, Loss, Rule
from tests.e2e.nemesis.settings import BRIDGE, HOST, MTU, Lab, address, namespace
from tests.e2e.nemesis.wan import DEVICE, Wan

BURST: Final = "256k"  # what a switch passes on at once; below it large packets would not fit
LATENCY: Final = "100ms"  # what its buffer holds; the rest is dropped, as TCP expects
LINKS: Final = Path("/sys/class/net")


class Net:
    """Made once a run, by `lifecycle.running`, which also takes it away."""

    def __init__(self, lab: Lab, groups: Sequence[str], started: Started) -> None:
        self.groups = tuple(groups)
        self._wan = Wan(lab, self.groups, started)
        self._rules: set[Rule] = set()
        self._delays: dict[tuple[str, str], Delay] = {}
        self._rated: set[str] = set()
        self._past_rates: Counter[tuple[str, str]] = Counter()  # of limits that were taken away
        self._used: set[str] = set()

    def make(self) -> None:
        """Bridge, namespaces, cables, counters and the proxy."""
        run(["ip", "link", "add", BRIDGE, "mtu", str(MTU), "type", "bridge"])
        run(["ip", "addr", "add", f"{HOST}/24", "dev", BRIDGE])
        run(["ip", "link", "set", BRIDGE, "up"])
        for group in self.groups:
            _plug(group)
            self._nft(group, rules.base(group, self.groups))
        self._wan.start()
        for group in self.groups:
            self._ip(group, [f"link set {DEVICE} mtu {MTU} up"])

    # --- faults ---------------------------------------------------------------------------

    def cut(self, *cuts: tuple[str, str]) -> None:
        """Cut directions, each (src, dst), in addition to those that are cut."""
        new = {Cut(src, dst) for src, dst in self._known(cuts)}
        self._use("cut")
        self._change(self._rules | new)

    def isolate(self, group: str) -> None:
        """Cut it off from all other groups, both ways; the host still reaches it."""
        others = [other for other in self.groups if other != group]
        self.cut(*((other, group) for other in others), *((group, other) for other in others))

    def loss(
        self, permille: int, paths: Iterable[tuple[str, str]], udp_port: int | None = None
    ) -> None:
        """Lose packets of these directions at random; `udp_port`: only datagrams to this port."""
        new = {Loss(src, dst, permille, udp_port) for src, dst in self._known(paths)}
        self._use("lost")
        self._change(self._rules | new)

    def delay(self, delay: Delay, paths: Iterable[tuple[str, str]]) -> None:
        """Delay packets of these directions, each by its own time."""
        new = dict.fromkeys(self._known(paths), delay)
        self._use("delayed")
        if not delay.in_order:
            self._use("reordered")
        if delay.duplicate_permille:
            self._use("duplicated")
        # The proxy first: a packet that meets it without a delay would pass at once.
        self._delays |= new
        self._wan.set(self._delays)
        self._route("replace", new)

    def rate(self, group: str, mbit: int) -> None:
        """Limit what the group sends."""
        self._known([(group, group)])
        self._use("shaped")
        self._forget_rate(group)
        self._tc(
            group, f"replace dev eth0 root tbf rate {mbit}mbit burst {BURST} latency {LATENCY}"
        )
        self._rated.add(group)

    def heal(self) -> None:
        """End every fault. What the proxy still holds arrives when its time has come."""
        self._change(set())
        self._wan.set({})
        self._route("del", self._delays)
        self._delays.clear()
        for group in sorted(self._rated):
            self._forget_rate(group)

    def all_paths(self) -> list[tuple[str, str]]:
        """Every direction between two groups."""
        return [(src, dst) for src in self.groups for dst in self.groups if src != dst]

    # --- counts ---------------------------------------------------------------------------

    def counters(self) -> Packets:
        """What faults did to packets since the start."""
        dropped = {
            (kind, src, dst): count
            for dst in self.groups
            for (kind, src), count in self._dropped(dst).items()
            if count
        }
        rated = sum((self._rate_counts(group) for group in self._rated), self._past_rates.copy())
        return Packets(dropped, rated, self._wan.counts())

    def idle_kinds(self) -> list[str]:
        """Kinds of faults that were enabled and did nothing to any packet: a run has failed."""
        counted = self.counters().totals()
        return sorted(kind for kind in self._used if not counted[kind])

    # --- how ------------------------------------------------------------------------------

    def _use(self, kind: str) -> None:
        self._used.add(kind)

    def _known(self, paths: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        found = list(paths)
        unknown = {group for path in found for group in path} - set(self.groups)
        if unknown or not found:
            raise LabError(f"no such groups: {sorted(unknown)}; there are {', '.join(self.groups)}")
        return found

    def _change(self, wanted: set[Rule]) -> None:
        for group in sorted({rule.dst for rule in wanted ^ self._rules}):
            self._nft(group, rules.chain(group, wanted))
        self._rules = wanted

    def _route(self, action: str, paths: Iterable[tuple[str, str]]) -> None:
        lines = defaultdict(list)
        for src, dst in paths:
            lines[src].append(f"route {action} {address(dst)}/32 dev {DEVICE} src {address(src)}")
        for src, batch in lines.items():
            self._ip(src, batch)

    def _forget_rate(self, group: str) -> None:
        if group in self._rated:
            self._past_rates += self._rate_counts(group)
            self._tc(group, "del dev eth0 root")
            self._rated.discard(group)

    def _rate_counts(self, group: str) -> Counter[tuple[str, str]]:
        shown = run(["tc", "-n", namespace(group), "-s", "-j", "qdisc", "show", "dev", "eth0"])
        limit = next(each for each in json.loads(shown) if each["kind"] == "tbf")
        return Counter(
            {("shaped", group): limit["overlimits"], ("discarded", group): limit["drops"]}
        )

    def _dropped(self, group: str) -> dict[tuple[str, str], int]:
        return rules.counted(run(argv_in(group, ["nft", "-j", "list", "counters"])))

    def _nft(self, group: str, text: str) -> None:
        run(argv_in(group, ["nft", "-f", "-"]), text=text)

    def _tc(self, group: str, words: str) -> None:
        run(["tc", "-n", namespace(group), "qdisc", *words.split()])

    def _ip(self, group: str, lines: Sequence[str]) -> None:
        run(["ip", "-n", namespace(group), "-batch", "-"], text="\n".join(lines) + "\n")


def _plug(group: str) -> None:
    name = namespace(group)
    run(["ip", "netns", "add", name])
    # The proxy's packets come from a device that has no address of the sender: no filter of
    # return paths. IPv6 would only add packets of its own.
    off = ("all.rp_filter", "default.rp_filter")
    words = [f"net.ipv4.conf.{key}=0" for key in off] + ["net.ipv6.conf.default.disable_ipv6=1"]
    run(argv_in(group, ["sysctl", "-qw", *words]))
    run(["ip", "link", "add", name, "mtu", str(MTU), "type", "veth", "peer", "name", "eth0",
         "mtu", str(MTU), "netns", name])  # fmt: skip
    run(["ip", "link", "set", name, "master", BRIDGE, "up"])
    lines = ["link set lo up", f"addr add {address(group)}/24 dev eth0", "link set eth0 up"]
    run(["ip", "-n", name, "-batch", "-"], text="\n".join(lines) + "\n")


if __name__ == "__main__":
    from tests.e2e.nemesis.self_test import main

    sys.exit(main())
