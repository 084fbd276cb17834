"""The faults of a run as data: what begins them, what ends them, and what they may do to clients.

Which server is hit and how is decided here, from a seed, without touching anything;
`acts.perform` does it.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from tests.e2e.nemesis.acts import (
    Act,
    CutOff,
    Disk,
    Heal,
    Isolate,
    Limit,
    Lose,
    Signal,
    Slow,
    Start,
)
from tests.e2e.nemesis.delays import Delay
from tests.e2e.nemesis.settings import BEACON_PORT, Lab, processes, processes_of

RESTART_S: Final = 5.0  # long enough that the dead one was dropped before it is back
SHORT_STOP_S: Final = 3.0
LONG_STOP_S: Final = 80.0  # longer than every lease, session and TCP time-out there is
NET_S: Final = 10.0
MANAGERS_S: Final = 10.0
LEADER_STOP_S: Final = 5.0
STAYS_AWAY_S: Final = 20.0
LOSS_PERMILLE: Final = 50
BEACON_LOSS_PERMILLE: Final = 200
SLOW_MBIT: Final = 20
SLOW: Final = Delay()
HOLD_MS: Final = 800  # shorter than what makes a drive that hangs be dropped: it dies as a member
SLOW_US: Final = 200_000  # its peers, all on one disk here, take up to 15 ms; clients wait 250
SLOW_S: Final = 20.0  # within 15 s of it the drive must be out


class Effect(Enum):
    """What clients or operators may see of a fault; everything else is a failure of the run."""

    GAP = "a request waits for the drop of a member"
    SLOW = "requests take longer, and none waits for a drop"
    DROP = "a member is dropped, and comes back by delta"
    UNKNOWN = "connections break: outcomes of requests are unknown"
    AWAY = "there is no service until it ends"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, decided. ``out``: servers that take no part in replication while it lasts."""

    name: str
    begin: tuple[Act, ...]
    end: tuple[Act, ...]
    lasts_s: float
    out: frozenset[str]
    effects: frozenset[Effect]


@dataclass(frozen=True, slots=True)
class Leaders:
    """Groups that lead at the moment, as asked just before."""

    manager: str
    etcd: str


def refusal(fault: Fault, out: Collection[str], copies: int = 3, min_insync: int = 2) -> str | None:
    """Why a fault must not begin while these servers are out, in words; None where it may.

    Only for laps that judge how long clients wait: with two copies out they wait by design.
    """
    gone = {*out, *fault.out}
    if len(gone) > copies - min_insync and Effect.AWAY not in fault.effects:
        return (
            f"{fault.name}: {', '.join(sorted(gone))} would be out at once, and below "
            f"{min_insync} of {copies} copies writes wait"
        )
    return None


def kill(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A server dies; its beacon lives and proves it dead."""
    group = chance.choice(lab.server_groups)
    return _process("kill", (f"server-{group}",), RESTART_S, signal.SIGKILL, group)


def stop(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A server hangs for a moment."""
    group = chance.choice(lab.server_groups)
    return _process("stop", (f"server-{group}",), SHORT_STOP_S, signal.SIGSTOP, group)


def long_stop(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A server hangs longer than anything waits for it."""
    group = chance.choice(lab.server_groups)
    return _process("long-stop", (f"server-{group}",), LONG_STOP_S, signal.SIGSTOP, group)


def pause(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A machine is paused: all that runs on it stands still, and goes on as if nothing was."""
    group = chance.choice(lab.server_groups)
    return _process("pause", processes_of(lab, group), SHORT_STOP_S, signal.SIGSTOP, group)


def node(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A machine loses its power: all that runs on it dies, and its kernel refuses nothing more."""
    group = chance.choice(lab.server_groups)
    return _powerless("node", processes_of(lab, group), group)


def cut(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A node is silent, both ways."""
    group = chance.choice(lab.server_groups)
    effects = frozenset({Effect.GAP, Effect.DROP})
    return Fault("cut", (Isolate(group),), (Heal(),), NET_S, frozenset({group}), effects)


def one_way(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A client no longer reaches a server, and one server not another; the ways back are whole."""
    client = chance.choice(lab.block_groups)
    first, second = chance.sample(lab.server_groups, 2)
    paths = ((client, first), (first, second))
    return Fault(
        "one-way", (CutOff(paths),), (Heal(),), NET_S, frozenset(), frozenset({Effect.SLOW})
    )


def loss(_lab: Lab, _chance: random.Random, _leaders: Leaders) -> Fault:
    """Every twentieth packet, and every fifth heartbeat beside."""
    begin = (Lose(LOSS_PERMILLE), Lose(BEACON_LOSS_PERMILLE, BEACON_PORT))
    effects = frozenset({Effect.SLOW, Effect.GAP, Effect.DROP})
    return Fault("loss", begin, (Heal(),), NET_S, frozenset(), effects)


def slow_net(_lab: Lab, _chance: random.Random, _leaders: Leaders) -> Fault:
    """Late and in another order everywhere: nobody is silent."""
    begin = (Slow(SLOW),)
    return Fault("slow-net", begin, (Heal(),), NET_S, frozenset(), frozenset({Effect.SLOW}))


def thin(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A client on a thin line: it sends every write to all copies, and has to wait for its turn.

    Not together with delays: what the proxy delays does not go over the cable.
    """
    begin = (Limit(chance.choice(lab.block_groups), SLOW_MBIT),)
    return Fault("thin", begin, (Heal(),), NET_S, frozenset(), frozenset({Effect.SLOW}))


def leader_kill(_lab: Lab, _chance: random.Random, leaders: Leaders) -> Fault:
    """The leading manager dies: no client notices."""
    return _process("leader-kill", (f"manager-{leaders.manager}",), RESTART_S, signal.SIGKILL)


def leader_stop(_lab: Lab, _chance: random.Random, leaders: Leaders) -> Fault:
    """The leading manager hangs, and believes to lead when it goes on."""
    return _process("leader-stop", (f"manager-{leaders.manager}",), LEADER_STOP_S, signal.SIGSTOP)


def etcd_kill(_lab: Lab, _chance: random.Random, leaders: Leaders) -> Fault:
    """The leader of etcd dies: no client notices."""
    return _process("etcd-kill", (f"etcd-{leaders.etcd}",), RESTART_S, signal.SIGKILL)


def managers(lab: Lab, _chance: random.Random, _leaders: Leaders) -> Fault:
    """No manager at all for a while: no client notices."""
    names = tuple(f"manager-{group}" for group in lab.manager_groups)
    return _process("managers", names, MANAGERS_S, signal.SIGKILL)


def leader_and_node(lab: Lab, chance: random.Random, leaders: Leaders) -> Fault:
    """The leading manager dies together with a node; with 5 servers it is the one it lives on."""
    lives_on = leaders.manager if leaders.manager in lab.server_groups else None
    group = lives_on or chance.choice(lab.server_groups)
    names = tuple(dict.fromkeys((f"manager-{leaders.manager}", *processes_of(lab, group))))
    return _powerless("leader-and-node", names, group)


def block(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A block daemon dies with requests open."""
    name = f"block-{chance.choice(lab.block_groups)}"
    effects = frozenset({Effect.UNKNOWN, Effect.AWAY})
    return Fault("block", (_dead((name,)),), (Start((name,)),), RESTART_S, frozenset(), effects)


def everything(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """All processes die at once, and nobody is at the keyboard when they come back."""
    return _all("all", lab, away=None, lasts_s=chance.uniform(0.5, RESTART_S))


def all_but_one(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """The same, and one node comes back only when the others have served for a while."""
    return _all("all-but-one", lab, chance.choice(lab.server_groups), STAYS_AWAY_S)


def flush_die(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A drive flushes nothing any more; power goes, and a part of what it took is there."""
    group = chance.choice(lab.server_groups)
    order = {"hold_flush_ms": HOLD_MS, "seed": chance.randrange(1 << 32)}
    end = (Disk(group, None), Start((f"server-{group}",)))
    effects = frozenset({Effect.GAP, Effect.DROP})
    begin = (Disk(group, order),)
    return Fault("flush-die", begin, end, RESTART_S, frozenset({group}), effects)


def drive_eio(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A drive can write nothing any more; it serves again when its server is started anew."""
    group = chance.choice(lab.server_groups)
    fault = _drive("drive-eio", group, {"eio": "write"}, RESTART_S)
    return replace(fault, end=(*fault.end, Start((f"server-{group}",))))


def drive_slow(lab: Lab, chance: random.Random, _: Leaders) -> Fault:
    """A drive becomes slow, not silent: every operation begins so much later."""
    return _drive("drive-slow", chance.choice(lab.server_groups), {"slow_us": SLOW_US}, SLOW_S)


def both(first: Fault, second: Fault) -> Fault:
    """Two at once: only what must hold at any time is judged of them.

    Where they leave fewer than ``min_insync`` copies, writes wait until they end.
    """
    effects = first.effects | second.effects | {Effect.GAP, Effect.DROP}
    return Fault(
        "pair", first.begin + second.begin, first.end + second.end,
        max(first.lasts_s, second.lasts_s), first.out | second.out, effects,
    )  # fmt: skip


Choose = Callable[[Lab, random.Random, Leaders], Fault]
CHOICES: Final[Mapping[str, Choose]] = {
    "kill": kill, "stop": stop, "long-stop": long_stop, "pause": pause, "node": node,
    "cut": cut, "one-way": one_way, "loss": loss, "slow-net": slow_net, "thin": thin,
    "leader-kill": leader_kill, "leader-stop": leader_stop, "etcd-kill": etcd_kill,
    "managers": managers, "leader-and-node": leader_and_node,
    "flush-die": flush_die, "drive-eio": drive_eio, "drive-slow": drive_slow,
    "block": block, "all": everything, "all-but-one": all_but_one,
}  # fmt: skip


def _process(
    name: str, names: tuple[str, ...], lasts_s: float, number: signal.Signals, out: str = ""
) -> Fault:
    killed = number is signal.SIGKILL
    end: Act = Start(names) if killed else Signal(names, signal.SIGCONT)
    effects = {Effect.GAP, Effect.DROP} if out else set()
    return Fault(
        name, (Signal(names, number),), (end,), lasts_s, frozenset({out} - {""}), frozenset(effects)
    )


def _drive(name: str, group: str, order: Mapping[str, int | str | bool], lasts_s: float) -> Fault:
    effects = frozenset({Effect.GAP, Effect.SLOW, Effect.DROP})
    begin, end = (Disk(group, order),), (Disk(group, None),)
    return Fault(name, begin, end, lasts_s, frozenset({group}), effects)


def _powerless(name: str, names: tuple[str, ...], group: str) -> Fault:
    # Cut off first: whom a process of a living kernel refuses knows at once that it is dead.
    begin: tuple[Act, ...] = (Isolate(group), _dead(names))
    effects = frozenset({Effect.GAP, Effect.DROP})
    return Fault(name, begin, (Heal(), Start(names)), RESTART_S, frozenset({group}), effects)


def _all(name: str, lab: Lab, away: str | None, lasts_s: float) -> Fault:
    names = tuple(processes(lab))
    back = tuple(each for each in names if processes(lab)[each] != away)
    begin: tuple[Act, ...] = (_dead(names),) if away is None else (_dead(names), Start(back))
    effects = frozenset({Effect.UNKNOWN, Effect.AWAY, Effect.DROP})
    return Fault(name, begin, (Start(names),), lasts_s, frozenset(lab.server_groups), effects)


def _dead(names: tuple[str, ...]) -> Signal:
    return Signal(names, signal.SIGKILL)
