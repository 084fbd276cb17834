"""Every example is one that the API server takes, and shows what it says it shows."""

from __future__ import annotations

import jsonschema
import pytest
from pydantic import ValidationError

from tests.crds.crd_files import KINDS, as_json_schema, defaulted, examples, places, schema_of
from tests.crds.rules import verdicts

NAMES = sorted(examples())


def test_every_kind_has_an_example():
    assert {one["kind"] for one in examples().values()} == set(KINDS)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_fits_its_definition_and_its_model(name):
    example = examples()[name]
    assert example["apiVersion"] == "drystone.io/v1alpha1"
    body = {key: value for key, value in example.items() if key in {"spec", "status"}}
    schema = as_json_schema(schema_of(example["kind"]))
    jsonschema.validate(body, schema, cls=jsonschema.Draft202012Validator)
    KINDS[example["kind"]][0].model_validate(example["spec"])


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_every_rule_when_made_and_when_applied_again(name):
    example = examples()[name]
    stored = defaulted(schema_of(example["kind"]), example)
    schema = schema_of(example["kind"])
    assert [one.message for one in verdicts(schema, stored) if not one.holds] == []
    assert [one.message for one in verdicts(schema, stored, stored) if not one.holds] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_typo_in_an_example_is_refused_by_the_model(name):
    example = examples()[name]
    with pytest.raises(ValidationError, match="nodeNmae"):
        KINDS[example["kind"]][0].model_validate({**example["spec"], "nodeNmae": "x"})


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_of_a_spec_is_shown_by_some_example(kind):
    shown: set[str] = set()

    def visit(value, path):
        shown.add(path)
        if isinstance(value, dict):
            for name, child in value.items():
                visit(child, f"{path}.{name}")
        if isinstance(value, list):
            for child in value:
                visit(child, f"{path}.items")

    for one in examples().values():
        if one["kind"] == kind:
            visit(one["spec"], "spec")
    wanted = {
        place.path
        for place in places(schema_of(kind))
        if place.path.startswith("spec.") and "additionalProperties" not in place.path
    }
    missing = {path for path in wanted - shown if not path.startswith("spec.placement.resources.")}
    assert missing == set()
