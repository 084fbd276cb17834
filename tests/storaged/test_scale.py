"""What control costs at the planned size: the bounds that must not grow with it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from scripts import scale, scale_page
from scripts.scale_world import Size, world

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.store import OPS_MAX, REQUEST_BYTES_MAX
from tests.storaged.bad_input_env import Heartbeat

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]
CRATES = ROOT / "storaged/native/crates"
LIFE = ("a node is lost", "it is back", "its drives join", "its copies are complete")


@pytest.fixture(scope="module")
def found() -> scale.Figures:
    """All drives and groups; of volumes as many as show whether anybody reads them."""
    return asyncio.run(scale.measure(Size(volumes=300)))


def step(found: scale.Figures, name: str) -> scale.Step:
    (one,) = [s for s in found.steps if s.name.startswith(name)]
    return one


@pytest.mark.parametrize("name", LIFE)
def test_every_transaction_of_a_nodes_life_is_far_below_the_limits_of_etcd(found, name):
    operations, compares, size = step(found, name).largest
    assert operations <= OPS_MAX // 2
    assert compares <= OPS_MAX // 2
    assert size <= REQUEST_BYTES_MAX // 4


def test_a_nodes_loss_is_one_transaction_for_its_drives_and_one_for_its_groups(found):
    lost = step(found, "a node is lost")
    assert [(t.operations, t.shards) for t in lost.counts.txns] == [(12, 0), (32, 32)]
    assert lost.groups > 300, "that is what is dropped from"


def test_joins_and_promotions_of_a_node_are_one_transaction_each(found):
    for name in ("its drives join", "its copies are complete"):
        assert len(step(found, name).counts.txns) == 1


def test_nothing_of_a_nodes_life_reads_a_volume_a_layer_or_an_order(found):
    for one in found.steps:
        if not one.name.startswith("generations"):
            assert not {"/vol/", "/layer/", "/order/", "/child/"} & set(one.counts.keys_read), one


def test_a_drop_reads_the_map_a_few_times_and_asks_each_other_drive_once(found):
    lost = step(found, "a node is lost")
    assert lost.probes == 756 - 12
    assert lost.counts.keys_read["/pool/"] <= 4 * 33
    assert lost.counts.requests <= 25


def test_the_whole_map_is_one_question(found):
    assert step(found, "a look at the whole map").counts.requests == 1
    for name in ("its drives join", "its copies are complete"):
        assert step(found, name).counts.requests <= 4


async def test_a_drop_goes_through_the_groups_a_few_times_however_many_drives_there_are(
    tmp_path, monkeypatch
):
    walks: list[int] = []
    known = MapState.known_pgs

    def counted(state: MapState, pool: int | None = None) -> dict[PgRef, PgRecord]:
        walks.append(1)
        return known(state, pool)

    async with world(tmp_path, Size(nodes=8, drives=4, pgs=64)) as made:
        monkeypatch.setattr(MapState, "known_pgs", counted)
        await made.drop_node(made.servers[0])
    assert 0 < len(walks) <= 8


def test_generations_that_did_not_change_are_not_read(found):
    assert not step(found, "generations since").counts.keys_read
    assert step(found, "generations since").counts.requests == 1


def test_a_map_is_no_larger_than_the_decisions_about_it_assume(found):
    assert found.map_bytes < 400_000
    assert found.groups_bytes * 8 < found.map_bytes


def test_a_node_more_moves_its_share_and_no_more(found):
    moved, fair, _ = found.moved
    assert moved <= 1.1 * fair


def test_heartbeats_are_as_large_and_as_often_as_the_page_says():
    consts = (CRATES / "types/src/consts.rs").read_text()
    period = re.search(r"BEACON_PERIOD: Micros = ([0-9_]+);", consts)
    assert period is not None
    assert int(period[1]) == scale_page.BEACON_PERIOD_S * 1e6
    assert len(Heartbeat(bytes(16)).sealed(bytes(32))) == scale.HEARTBEAT_BYTES


def test_the_page_shows_figures_of_the_planned_size():
    text = scale.PAGE.read_text()
    part = text.partition(scale.BEGIN)[2].partition(scale.END)[0]
    assert "63 nodes x 12 drives = 756 drives, 8,192 placement groups" in part
    assert "100,000 volumes" in part
    assert re.search(r"Measured on \d{4}-\d\d-\d\d, commit [0-9a-f]{7,}", part)
