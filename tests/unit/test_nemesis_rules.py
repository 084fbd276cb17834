"""Cuts and losses as nftables reads them, and what it counted."""

from __future__ import annotations

import json

import pytest

from tests.e2e.lib.shell import LabError
from tests.e2e.nemesis.counts import ORDER, Packets, sentence
from tests.e2e.nemesis.rules import Cut, Loss, base, chain, counted

PROXIED = {"delayed": 7, "reordered": 2, "duplicated": 0, "overflowed": 0, "stray": 0}


def test_a_group_has_a_counter_for_each_kind_and_each_other_group():
    text = base("n1", ["n1", "n2", "c1"])
    assert [word for word in text.split() if word.startswith(("cut_", "lost_"))] == [
        "cut_n2", "lost_n2", "cut_c1", "lost_c1",
    ]  # fmt: skip
    assert "policy accept" in text


def test_a_chain_is_replaced_at_once_and_has_only_the_rules_of_its_receiver():
    lines = chain("n1", [Cut("n2", "n1"), Cut("n1", "n2")]).splitlines()
    assert lines == [
        "flush chain inet nem in",
        "add rule inet nem in ip saddr 10.199.0.22 counter name cut_n2 drop",
    ]


def test_no_rules_is_a_chain_that_drops_nothing():
    assert chain("n1", []) == "flush chain inet nem in\n"


def test_a_loss_is_of_all_packets_or_of_one_port():
    both = chain("n1", [Loss("c1", "n1", 50), Loss("c1", "n1", 200, udp_port=8480)])
    assert "saddr 10.199.0.41 numgen random mod 1000 < 50 counter name lost_c1 drop" in both
    assert "udp dport 8480 numgen random mod 1000 < 200 counter name lost_c1 drop" in both


def test_what_is_cut_counts_as_cut_and_not_as_lost():
    lines = chain("n1", {Loss("n2", "n1", 500), Cut("n2", "n1")}).splitlines()
    assert ["cut_" in line for line in lines] == [False, True, False]


@pytest.mark.parametrize("permille", [0, -1, 1001])
def test_an_impossible_loss_is_refused(permille):
    with pytest.raises(LabError, match="1 to 1000"):
        Loss("n1", "n2", permille)


def test_counts_are_read_from_what_nft_lists():
    listing = {
        "nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"counter": {"family": "inet", "name": "cut_n2", "packets": 5, "bytes": 500}},
            {"counter": {"family": "inet", "name": "lost_c1", "packets": 0, "bytes": 0}},
        ]
    }
    assert counted(json.dumps(listing)) == {("cut", "n2"): 5, ("lost", "c1"): 0}


def packets(cut: int) -> Packets:
    dropped = {("cut", "n1", "n2"): cut, ("cut", "n2", "n1"): 1, ("lost", "c1", "n2"): 4}
    return Packets(dropped, {("shaped", "n1"): 3, ("discarded", "n1"): 1}, PROXIED)


def test_totals_are_by_kind_and_name_every_kind():
    totals = packets(cut=5).totals()
    assert totals == PROXIED | {"cut": 6, "lost": 4, "shaped": 3, "discarded": 1}
    assert set(totals) == set(ORDER)


def test_a_lap_counts_what_came_in_it():
    since = packets(cut=9).since(packets(cut=5))
    assert since == dict.fromkeys(ORDER, 0) | {"cut": 4}
    assert packets(cut=9).on("cut", "n1", "n2") == 9
    assert packets(cut=9).on("lost", "n1", "n2") == 0


def test_people_read_every_kind_also_those_at_0():
    said = sentence(packets(cut=5).totals())
    assert said.startswith("packets: 6 cut, 4 lost, 3 shaped, 1 discarded, 7 delayed")
    assert "0 duplicated" in said
