"""StoragePools: when one is made, and what of it changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drystone_operator.models import StoragePoolSpec
from drystone_operator.plan import pools
from drystone_operator.plan.views import (
    EnginePool,
    PgCounts,
)
from tests.operator.wanted import RACK, SQLITE, ZONES, build, drive, engine


def pool(spec: dict[str, object], **more: bool) -> pools.StoragePoolView:
    values = {"held": True, **more}
    return pools.StoragePoolView("p", StoragePoolSpec.model_validate(spec), **values)


MADE = EnginePool(1, "p", 3, 2, "auto", 3 << 40, 0, 3 << 40, PgCounts(64, 64))


@pytest.mark.parametrize(
    ("spec", "up", "fault_sets", "waits"),
    [
        ({"copies": 3}, ("n1", "n2", "n3"), ZONES, ""),
        ({"copies": 3}, ("n1", "n2"), ZONES, "3 fault sets; there are 2"),
        ({"copies": 3}, ("n1", "n2", "n3"), RACK, ""),
        ({"copies": 3}, ("n1", "n1", "n1"), RACK, "3 nodes; there are 1"),
        ({"copies": 2}, ("n1", "n1"), {"n1": ""}, ""),
        ({"copies": 2, "failureDomain": "fault-set"}, ("n1", "n2"), RACK, "2 fault sets"),
        ({"copies": 3, "failureDomain": "drive"}, ("n1", "n1", "n1"), ZONES, ""),
    ],
)
def test_a_pool_is_made_once_its_copies_can_be_apart(spec, up, fault_sets, waits):
    drives = tuple(drive(i, n) for i, n in enumerate(up))
    text = str(pools.plan(pool(spec), engine("n1", drives=drives), fault_sets))
    assert ("create pool" in text) == (waits == "")
    assert waits in text


@pytest.mark.parametrize(("counted", "said"), [({"p": 7, "q": 1}, 7), ({"q": 1}, 0), (None, None)])
def test_a_pool_says_how_many_volumes_it_has_where_they_were_counted(counted, said):
    there = engine("n1", pools=(MADE,), pool_volumes=counted)
    status = pools.plan(pool({"copies": 3}), there, {}).status
    assert status is not None
    assert status.fields.get("volumes") == said


def test_only_min_insync_of_a_pool_changes():
    there = engine("n1", pools=(MADE,))
    assert "set pool p min_insync=1" in str(
        pools.plan(pool({"copies": 3, "minInsync": 1}), there, {})
    )
    text = str(pools.plan(pool({"copies": 2}), there, {}))
    assert "NotAsWritten: The pool has 3 copies, not 2: that cannot be changed." in text
    assert "create" not in text


def test_a_pool_is_held_back_until_the_manager_deleted_it():
    there = engine("n1", pools=(MADE,))
    leaving = pool({"copies": 3}, deleting=True)
    assert str(pools.plan(leaving, there, {})) == "delete pool p\nrelease StoragePool/p"
    assert str(pools.plan(leaving, engine("n1"), {})) == "release StoragePool/p"


def test_the_default_pool_is_made_as_an_object_once():
    wanted = build({**SQLITE, "defaultPool": {"copies": 3}})
    (made,) = pools.default_pool(wanted, ())
    assert made.body["metadata"]["name"] == "default"
    assert made.body["spec"] == {"copies": 3, "failureDomain": "auto"}
    existing = replace(pool({"copies": 3}), name="default")
    assert pools.default_pool(wanted, (existing,)) == ()
