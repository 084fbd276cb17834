"""CRDs and pydantic models say the same of every field: name, type, bounds, default, required."""

from __future__ import annotations

from typing import Any

import pytest

from tests.crds.crd_files import KINDS, defaulted, examples, schema_of

INT_MAX = {"int32": 2**31 - 1, "int64": 2**63 - 1}
BOUNDS = {
    "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems",
    "maxProperties", "format",
}  # fmt: skip


def leaf(schema: dict[str, Any]) -> dict[str, Any]:
    """Take what both notations say of one field, in one form."""
    out = {key: value for key, value in schema.items() if key in BOUNDS}
    kind = schema.get("type", "int-or-string")
    if kind == "integer":
        implied = INT_MAX.get(out.pop("format", ""))
        if implied is not None:
            out.setdefault("maximum", implied)
    if "enum" in out:
        out["enum"] = sorted(out["enum"], key=str)
    return {"type": kind, **out}


def flatten(schema: dict[str, Any], path: str = "") -> dict[str, dict[str, Any]]:
    """List every field with its shape, its default where it is no object, and what it requires."""
    out = {path: leaf(schema)}
    out[path]["required"] = sorted(schema.get("required", []))
    for name, child in schema.get("properties", {}).items():
        below = flatten(child, f"{path}.{name}")
        # Objects: only that there is a default; what is in it, the fields say themselves.
        if "default" in child:
            is_object = child.get("type") == "object"
            below[f"{path}.{name}"]["default"] = {} if is_object else child["default"]
        out |= below
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            out |= flatten(schema[name], f"{path}.{name}")
    return out


def plain(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Write pydantic's JSON schema without references and without the choice of null."""
    out = dict(schema)
    for choice in [one for one in out.pop("anyOf", []) if one.get("type") != "null"]:
        out |= choice
    if "$ref" in out:
        name = out.pop("$ref").removeprefix("#/$defs/")
        out = plain(definitions[name], definitions) | out
    if "const" in out:
        out["enum"] = [out.pop("const")]
    if out.get("default", 0) is None:
        del out["default"]
    if "patternProperties" in out:  # a map with a pattern of its keys, which a CRD cannot say
        (out["additionalProperties"],) = out.pop("patternProperties").values()
    if "properties" in out:
        out["properties"] = {k: plain(v, definitions) for k, v in out["properties"].items()}
        out.pop("additionalProperties", None)
    for name in ("items", "additionalProperties"):
        if isinstance(out.get(name), dict):
            out[name] = plain(out[name], definitions)
    return out


def model_fields(model: Any) -> dict[str, dict[str, Any]]:
    schema = model.model_json_schema(by_alias=True)
    return flatten(plain(schema, schema.get("$defs", {})))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("part", "index"), [("spec", 0), ("status", 1)])
def test_definition_and_model_agree_on_every_field(kind, part, index):
    crd = flatten(schema_of(kind)["properties"][part])
    model = model_fields(KINDS[kind][index])
    assert sorted(crd) == sorted(model)
    different = {path: (crd[path], model[path]) for path in crd if crd[path] != model[path]}
    assert not different


@pytest.mark.parametrize("name", examples())
def test_the_model_fills_in_what_the_api_server_would(name):
    example = examples()[name]
    spec_model = KINDS[example["kind"]][0]
    schema = schema_of(example["kind"])["properties"]["spec"]
    read = spec_model.model_validate(example["spec"])
    stored = defaulted(schema, example["spec"])
    assert spec_model.model_validate(stored) == read
    assert read.model_dump(by_alias=True, exclude_none=True, mode="json") == stored


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_status_reads(kind):
    assert KINDS[kind][1].model_validate({}).conditions == ()


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_of_another_version_reads(kind):
    read = KINDS[kind][1].model_validate({"ofTheFuture": 1, "observedGeneration": 3})
    assert read.observed_generation == 3
