"""The definitions keep the API server's rules for structural schemas, and our own limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.crds.crd_files import CRDS, KINDS, Place, crds, places, schema_of
from tests.crds.rules import verdicts

# What a structural schema must not have, or must not have where we would put it.
FORBIDDEN = {
    "$ref", "definitions", "uniqueItems", "patternProperties", "dependencies", "anyOf", "oneOf",
    "allOf", "not", "nullable", "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip
REASONS = {"FieldValueInvalid", "FieldValueForbidden", "FieldValueRequired", "FieldValueDuplicate"}
# The cost of a rule grows with its repetitions. The API server's budget for a whole definition is
# ten rules' budgets, and an estimate for 100 repetitions of one comparison is far inside of it.
REPEATS_MAX = 100
RULE_LENGTH_MAX = 300
RULES_MAX = 64


def test_there_is_one_definition_for_each_model():
    assert set(crds()) == set(KINDS)
    assert sorted(path.stem for path in CRDS.glob("*.yaml")) == sorted(
        one["spec"]["names"]["plural"] for one in crds().values()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_names_group_and_version_are_as_the_documents_say(kind):
    crd = crds()[kind]
    spec = crd["spec"]
    names = spec["names"]
    (version,) = spec["versions"]
    assert crd["metadata"]["name"] == f"{names['plural']}.{spec['group']}"
    assert (spec["group"], spec["scope"], version["name"]) == (
        "drystone.io",
        "Namespaced",
        "v1alpha1",
    )
    assert names["singular"] == kind.lower()
    assert names["plural"] == kind.lower() + "s"
    assert names["listKind"] == f"{kind}List"
    assert names["categories"] == ["drystone"]
    assert names["shortNames"] == ["ds" + kind.removeprefix("Storage")[0].lower()]
    assert version["subresources"] == {"status": {}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_begins_with_ready_and_shows_capacity_use_and_age(kind):
    columns = crds()[kind]["spec"]["versions"][0]["additionalPrinterColumns"]
    always = [one["name"] for one in columns if not one.get("priority")]
    assert always[0] == "Ready"
    assert always[-3:] == ["Capacity", "Used", "Age"]
    assert all(one["description"] for one in columns)
    assert len({one["name"] for one in columns}) == len(columns)


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_shows_a_field_that_exists(kind):
    known = {place.path for place in places(schema_of(kind))}
    for column in crds()[kind]["spec"]["versions"][0]["additionalPrinterColumns"]:
        path = re.sub(r"\[.*\]", ".items", column["jsonPath"]).removeprefix(".")
        assert path in known or path == "metadata.creationTimestamp"


def offences(kind: str, check: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Where in a definition something does not hold; one test for each field would be 1,500."""
    return [place.path for place in places(schema_of(kind)) if not check(place.schema)]


def is_structural(schema: dict[str, Any]) -> bool:
    typed = ("type" in schema) != bool(schema.get("x-kubernetes-int-or-string"))
    parts = ("properties" in schema) + ("additionalProperties" in schema)
    return not FORBIDDEN & set(schema) and typed and parts == (schema.get("type") == "object")


def is_bounded(schema: dict[str, Any]) -> bool:
    match schema.get("type", "int-or-string"):
        case "string":
            return bool(schema.get("maxLength") or schema.get("enum") or schema.get("format"))
        case "int-or-string":
            return {"maxLength", "pattern"} <= set(schema)
        case "array":
            kinds = {"atomic", "set", "map"}
            return "maxItems" in schema and schema["x-kubernetes-list-type"] in kinds
        case "object":
            return "properties" in schema or "maxProperties" in schema
        case "integer":
            bounded = "minimum" in schema and ("format" in schema or "maximum" in schema)
            return bounded or "enum" in schema
    return schema["type"] == "boolean"


def requires_what_it_has(schema: dict[str, Any]) -> bool:
    properties = schema.get("properties", {})
    return all(
        name in properties and "default" not in properties[name]
        for name in schema.get("required", [])
    )


def is_keyed_by_what_is_required(schema: dict[str, Any]) -> bool:
    if schema.get("x-kubernetes-list-type") != "map":
        return True
    return set(schema["x-kubernetes-list-map-keys"]) <= set(schema["items"]["required"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_typed_and_structural(kind):
    assert offences(kind, is_structural) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind):
    assert offences(kind, lambda schema: bool(schema.get("description", "").strip())) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_has_a_limit(kind):
    # apiVersion and kind belong to the API server.
    assert offences(kind, is_bounded) == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_required_exists_and_has_no_default(kind):
    assert offences(kind, requires_what_it_has) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_map_of_objects_is_keyed_by_fields_that_are_always_there(kind):
    assert offences(kind, is_keyed_by_what_is_required) == []


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_have_one_shape_in_every_kind(kind):
    shape = schema_of("StoragePool")["properties"]["status"]["properties"]["conditions"]
    assert schema_of(kind)["properties"]["status"]["properties"]["conditions"] == shape
    assert shape["x-kubernetes-list-map-keys"] == ["type"]


def rules(kind: str) -> Iterator[tuple[Place, dict[str, str]]]:
    for place in places(schema_of(kind)):
        for rule in place.schema.get("x-kubernetes-validations", []):
            yield place, rule


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_says_what_is_wrong_and_costs_little(kind):
    for place, rule in rules(kind):
        assert set(rule) == {"rule", "message", "reason"}
        assert rule["reason"] in REASONS
        assert 10 < len(rule["message"]) < 200
        assert not rule["message"].endswith(".")
        assert len(rule["rule"]) <= RULE_LENGTH_MAX
        assert place.repeats <= REPEATS_MAX
        # The one iteration there is walks lists and maps of bounded size; a regular expression
        # over text without a limit is what breaks the API server's budget.
        assert not re.search(r"\.(matches|exists|filter|map|split|findAll)\(", rule["rule"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_that_looks_back_is_not_inside_of_a_list_without_keys(kind):
    for place, rule in rules(kind):
        if "oldSelf" in rule["rule"]:
            assert not {"items", "additionalProperties"} & set(place.path.split("."))


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_keeps_the_rules_as_it_is_written(kind):
    # The API server refuses a definition whose default needs the defaults of its own fields.
    for place in places(schema_of(kind)):
        if "default" in place.schema:
            told = list(verdicts(place.schema, place.schema["default"]))
            assert all(one.holds for one in told), place.path


@pytest.mark.parametrize("kind", KINDS)
def test_what_belongs_to_the_api_server_is_only_named(kind):
    assert schema_of(kind)["properties"]["metadata"] == {"type": "object"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_has_few_rules(kind):
    assert len(list(rules(kind))) <= RULES_MAX
