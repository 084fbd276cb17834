"""Names and ids at the edge: one spelling each, everything else refused with a next step."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_common import ids
from drystone_common.errors import InvalidArgumentError

CLUSTER = uuid.UUID("6f1d9c7e-0a51-4f7c-9a77-8f6d2f0f4a11")


@pytest.mark.parametrize("name", ["a", "0", "db-1", "a.b", "a" * 63, "a--b"])
def test_valid_names_come_back_unchanged(name):
    assert ids.parse_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", ".a", "A", "a_b", "a" * 64, "a\n", "ä", "a/b", "../a", "a b", "\0"]
)
def test_invalid_names_are_refused_with_the_rule(name):
    with pytest.raises(InvalidArgumentError) as caught:
        ids.parse_name(name, "pool name")
    assert caught.value.code == "invalid_name"
    assert caught.value.message.startswith("pool name ")
    assert "1 to 63" in (caught.value.hint or "")


@given(st.text(max_size=200))
def test_any_text_is_a_name_or_a_typed_error_of_bounded_length(text):
    try:
        assert re.fullmatch("[a-z0-9.-]{1,63}", ids.parse_name(text))
    except InvalidArgumentError as error:
        assert len(error.message) < 1200


@given(st.uuids(), st.integers(0, ids.ID_MAX))
def test_a_csi_volume_id_reads_back_what_it_wrote(cluster, volume):
    written = str(ids.CsiVolumeId(cluster, ids.VolumeId(volume)))
    assert len(written) == 53
    assert ids.CsiVolumeId.parse(written) == ids.CsiVolumeId(cluster, ids.VolumeId(volume))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        str(CLUSTER),
        f"{CLUSTER}/",
        f"{CLUSTER}/123",
        f"{CLUSTER}/000000000000000G",
        f"{CLUSTER}/00000000000000AB",
        f"{CLUSTER}/0000000000000001/2",
        f"{str(CLUSTER).upper()}/0000000000000001",
        f"{{{CLUSTER}}}/0000000000000001",
        f"{CLUSTER}/0000000000000001\n",
    ],
)
def test_foreign_volume_ids_are_refused(text):
    with pytest.raises(InvalidArgumentError) as caught:
        ids.CsiVolumeId.parse(text)
    assert caught.value.code == "invalid_volume_id"


@given(st.text(max_size=80))
def test_any_text_is_a_volume_id_or_a_typed_error(text):
    with pytest.raises(InvalidArgumentError):
        ids.CsiVolumeId.parse(text)


@given(st.integers(0, ids.ID_MAX))
def test_a_64_bit_id_has_one_spelling(value):
    assert ids.parse_id(ids.format_id(value)) == value


@pytest.mark.parametrize("value", [-1, 2**64])
def test_an_id_outside_64_bits_is_refused(value):
    with pytest.raises(InvalidArgumentError):
        ids.format_id(value)


def test_client_ids_are_random_and_checked():
    first, second = ids.new_client_id(), ids.new_client_id()
    assert first != second
    assert ids.parse_client_id(first) == first
    with pytest.raises(InvalidArgumentError):
        ids.parse_client_id(first.upper() + "0")


def test_only_the_canonical_spelling_of_a_uuid_is_accepted():
    assert ids.parse_uuid(str(CLUSTER)) == CLUSTER
    for text in (CLUSTER.hex, f"urn:uuid:{CLUSTER}", str(CLUSTER).upper()):
        with pytest.raises(InvalidArgumentError):
            ids.parse_uuid(text)


@given(st.text(min_size=1, max_size=32))
def test_a_csi_name_maps_to_one_valid_engine_name(csi_name):
    engine_name = ids.csi_engine_name(csi_name)
    assert ids.parse_name(engine_name) == engine_name
    assert ids.csi_engine_name(csi_name) == engine_name
    assert ids.csi_engine_name(csi_name + "x") != engine_name


def test_the_engine_name_of_a_csi_name_never_changes():
    # Kubernetes repeats a create with the same name, after an upgrade too.
    assert ids.csi_engine_name("pvc-1") == "csi-f2868e1aa7cab669517cd9f5ab1b7957c0b92df3"


@pytest.mark.parametrize("csi_name", ["", "x" * 129, "ä" * 65])
def test_a_csi_name_outside_1_to_128_bytes_is_refused(csi_name):
    with pytest.raises(InvalidArgumentError):
        ids.csi_engine_name(csi_name)
