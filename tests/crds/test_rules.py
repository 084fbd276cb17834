"""Every rule lets the right objects pass and refuses the wrong ones, each alone."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tests.crds.crd_files import KINDS, examples, places, schema_of
from tests.crds.rule_cases import CASES, Case
from tests.crds.rules import verdicts


def kind_of(case: Case) -> str:
    kind: str = examples()[case.example]["kind"]
    return kind


def judged(case: Case):
    new, old = case.objects()
    schema = schema_of(kind_of(case))
    return list(verdicts(schema, new) if old is None else verdicts(schema, new, old))


def test_no_two_cases_have_one_title():
    assert len({case.title for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_case_breaks_the_rule_it_names_and_no_other(case):
    broken = [one.message for one in judged(case) if not one.holds]
    if case.breaks:
        assert len(broken) == 1
        assert broken[0].startswith(case.breaks)
    else:
        assert broken == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_rule_has_a_case_that_keeps_it_and_one_that_breaks_it(kind):
    seen = {
        (one.path, one.rule, one.holds)
        for case in CASES
        if kind_of(case) == kind
        for one in judged(case)
    }
    wanted = {
        (place.path, rule["rule"], holds)
        for place in places(schema_of(kind))
        for rule in place.schema.get("x-kubernetes-validations", [])
        for holds in (True, False)
    }
    assert wanted <= seen, f"cases are missing: {sorted(wanted - seen, key=str)}"


@pytest.mark.parametrize(
    "case",
    # Rules about names and about label keys have their place outside of the spec's model.
    [c for c in CASES if c.was is None and "metadata.name" not in c.put],
    ids=lambda case: case.title,
)
def test_the_model_judges_an_object_alone_as_the_rules_do(case):
    model = KINDS[kind_of(case)][0]
    spec = case.objects()[0]["spec"]
    if case.breaks:
        with pytest.raises(ValidationError):
            model.model_validate(spec)
    else:
        model.model_validate(spec)
