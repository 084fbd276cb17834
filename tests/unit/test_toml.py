"""What is written as TOML is read back as it was meant."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_common.toml import Table, toml_text

texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(texts)
def test_no_text_can_leave_its_quotes(text):
    assert tomllib.loads(toml_text({"key": text, "list": [text]})) == {"key": text, "list": [text]}


@pytest.mark.parametrize("text", ['a"\n\\b = "c', "ü", "😀", "\x7f\x00"])
def test_quotes_controls_and_letters_of_every_plane_come_back(text):
    assert tomllib.loads(toml_text({"key": text})) == {"key": text}


def test_tables_and_arrays_of_tables_come_back():
    table: Table = {"a": "text", "b": 7, "c": True, "d": ("x", "y"), "e": []}
    drives = [{"path": "/x"}, {"path": "/y"}]
    read = tomllib.loads(toml_text(table, {"drives": drives}))
    assert read == {"a": "text", "b": 7, "c": True, "d": ["x", "y"], "e": [], "drives": drives}


def test_an_empty_table_is_an_empty_file():
    assert toml_text({}) == ""
