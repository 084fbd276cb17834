"""Faults are decided by a seed, end what they began, and are refused where they would blur."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.nemesis import faults
from tests.e2e.nemesis.acts import CutOff, Isolate, Signal, Start, perform
from tests.e2e.nemesis.faults import CHOICES, Effect, Fault, Leaders
from tests.e2e.nemesis.settings import Lab, processes, processes_of

LABS = [Lab(Path("/lab")), Lab(Path("/lab"), servers=5, blocks=3)]
KINDS = pytest.mark.parametrize("name", list(CHOICES))


class Plant:
    """Processes that remember what happened to them."""

    def __init__(self, lab: Lab) -> None:
        self.state = dict.fromkeys(processes(lab), "runs")
        self.starts: list[str] = []
        self.killed_together: list[str] = []
        self.orders: dict[str, object] = {}
        self.ordered: list[object] = []

    def order_drive(self, group: str, order: object) -> None:
        self.ordered += [order] if order else []
        self.orders[group] = order
        if order is None:
            del self.orders[group]

    def signal(self, name: str, number: signal.Signals) -> None:
        if self.state[name] != "dead":
            states = {signal.SIGKILL: "dying", signal.SIGSTOP: "stopped", signal.SIGCONT: "runs"}
            self.state[name] = states[number]

    def wait_gone(self, name: str) -> None:
        assert self.state[name] == "dying"
        assert "runs" not in {self.state[each] for each in self.killed_together}
        self.state[name] = "dead"

    def start(self, name: str) -> None:
        assert self.state[name] == "dead"
        self.state[name] = "runs"
        self.starts.append(name)

    def runs(self, name: str) -> bool:
        return self.state[name] != "dead"


class Net:
    """A network that remembers what is wrong with it, and what ever was."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.wrong: list[tuple[object, ...]] = []
        self.was: list[tuple[object, ...]] = []

    def _note(self, *what: object) -> None:
        self.wrong.append(what)
        self.was.append(what)

    def cut(self, *cuts):
        self._note("cut", *cuts)

    def isolate(self, group):
        self._note("isolate", group)

    def loss(self, permille, paths, udp_port=None):
        self._note("loss", permille, len(paths), udp_port)

    def delay(self, delay, paths):
        self._note("delay", delay, len(paths))

    def rate(self, group, mbit):
        self._note("rate", group, mbit)

    def heal(self):
        self.wrong = []

    def all_paths(self):
        groups = self._lab.groups
        return [(src, dst) for src in groups for dst in groups if src != dst]


def decide(name: str, lab: Lab, seed: int) -> Fault:
    chance = random.Random(seed)
    leaders = Leaders(chance.choice(lab.manager_groups), chance.choice(lab.manager_groups))
    return CHOICES[name](lab, chance, leaders)


@KINDS
@given(lab=st.sampled_from(LABS), seed=st.integers(0, 1000))
def test_a_fault_does_something_and_its_end_undoes_all_of_it(name, lab, seed):
    fault = decide(name, lab, seed)
    plant, net = Plant(lab), Net(lab)
    for act in fault.begin:
        if isinstance(act, Signal) and act.number is signal.SIGKILL:
            plant.killed_together = list(act.names)
    perform(fault.begin, net, plant)
    plant.killed_together = []
    assert net.wrong or set(plant.state.values()) != {"runs"} or plant.starts or plant.orders
    perform(fault.end, net, plant)
    assert not net.wrong
    assert not plant.orders
    assert set(plant.state.values()) == {"runs"}
    perform(fault.end, net, plant)
    assert len(plant.starts) == len(set(plant.starts))


@KINDS
@given(seed=st.integers(0, 1000))
def test_the_same_seed_decides_the_same_fault_by_its_name(name, seed):
    fault = decide(name, LABS[0], seed)
    assert fault == decide(name, LABS[0], seed)
    assert fault.name == name


@KINDS
@given(lab=st.sampled_from(LABS), seed=st.integers(0, 1000))
def test_servers_that_are_out_are_those_whose_processes_or_cables_are_hit(name, lab, seed):
    fault = decide(name, lab, seed)
    plant, net = Plant(lab), Net(lab)
    perform(fault.begin, net, plant)
    hit = {what[1] for what in net.was if what[0] == "isolate"}
    signalled = {each for act in fault.begin if isinstance(act, Signal) for each in act.names}
    hit |= set(plant.orders)
    hit |= {processes(lab)[each] for each in signalled if each.startswith("server-")}
    assert fault.out == hit


@pytest.mark.parametrize("lab", LABS)
def test_every_process_has_one_group_and_etcd_starts_first(lab):
    names = list(processes(lab))
    assert sorted(names) == sorted(
        name for group in lab.groups for name in processes_of(lab, group)
    )
    roles = [name.split("-")[0] for name in names]
    assert list(dict.fromkeys(roles)) == ["etcd", "manager", "server", "beacon", "block"]


def test_a_machine_of_a_large_run_dies_with_the_manager_on_it():
    lab = LABS[1]
    fault = faults.leader_and_node(lab, random.Random(1), Leaders("n2", "n1"))
    assert fault.out == {"n2"}
    cut, act = fault.begin
    assert cut == Isolate("n2"), "the kernel of a machine without power refuses no connection"
    assert isinstance(act, Signal)
    assert set(act.names) == {"etcd-n2", "manager-n2", "server-n2", "beacon-n2"}


def test_a_cut_one_way_leaves_the_way_back():
    lab = LABS[0]
    (act,) = faults.one_way(lab, random.Random(1), Leaders("m1", "m1")).begin
    assert isinstance(act, CutOff)
    assert not {(dst, src) for src, dst in act.paths} & set(act.paths)
    assert act.paths[0][0] in lab.block_groups


def test_a_node_that_stays_away_is_started_only_at_the_end():
    lab = LABS[0]
    fault = decide("all-but-one", lab, 1)
    plant, net = Plant(lab), Net(lab)
    perform(fault.begin, net, plant)
    dead = {name for name, state in plant.state.items() if state == "dead"}
    assert {name.split("-")[0] for name in dead} == {"server", "beacon"}
    assert len({processes(lab)[name] for name in dead}) == 1


def test_a_second_server_is_not_taken_where_waiting_is_judged():
    lab = LABS[0]
    fault = decide("kill", lab, 1)
    other = next(group for group in lab.server_groups if group not in fault.out)
    assert faults.refusal(fault, ()) is None
    assert faults.refusal(fault, fault.out) is None
    assert "writes wait" in (faults.refusal(fault, {other}) or "")
    assert faults.refusal(decide("leader-kill", lab, 1), {other}) is None


def test_whoever_takes_all_servers_says_that_there_is_no_service():
    for name in CHOICES:
        fault = decide(name, LABS[0], 1)
        assert (len(fault.out) > 1) <= (Effect.AWAY in fault.effects)
        assert all(isinstance(act, Start) or fault.lasts_s > 0 for act in fault.end)


@given(lab=st.sampled_from(LABS), seed=st.integers(0, 1000), names=st.permutations(list(CHOICES)))
def test_two_faults_at_once_are_both_begun_and_both_undone(lab, seed, names):
    first, second = (decide(name, lab, seed) for name in names[:2])
    fault = faults.both(first, second)
    assert fault.out == first.out | second.out
    assert fault.effects >= first.effects | second.effects
    plant, net = Quiet(lab), Net(lab)
    perform(fault.begin, net, plant)
    perform(fault.end, net, plant)
    assert not net.wrong
    assert set(plant.state.values()) == {"runs"}


class Quiet(Plant):
    """One that may be killed in two groups."""

    def wait_gone(self, name: str) -> None:
        self.state[name] = "dead"
