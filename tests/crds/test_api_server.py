"""A real API server takes the definitions and judges every example and case as we say it does."""

from __future__ import annotations

import copy

import pytest

from tests.crds.api_server import Api, running
from tests.crds.crd_files import KINDS, crds, examples
from tests.crds.rule_cases import CASES, Case

pytestmark = pytest.mark.timeout(300)

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/drystone.io/v1alpha1"


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with running(tmp_path_factory.mktemp("api")) as server:
        for definition in crds().values():
            answer = server.call("POST", DEFINITIONS, definition)
            assert answer.status_code == 201, answer.text
        for definition in crds().values():
            server.wait(f"{GROUP}/{definition['spec']['names']['plural']}", "a definition")
        server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "drystone"}})
        yield server


def folder(kind: str) -> str:
    return f"{GROUP}/namespaces/drystone/{crds()[kind]['spec']['names']['plural']}"


def test_definitions_have_no_complaint_of_the_server(api: Api):
    for definition in crds().values():
        stored = api.call("GET", f"{DEFINITIONS}/{definition['metadata']['name']}").json()
        conditions = {one["type"]: one for one in stored["status"]["conditions"]}
        assert conditions["NamesAccepted"]["status"] == "True"
        assert conditions["Established"]["status"] == "True"
        assert "NonStructuralSchema" not in conditions


@pytest.mark.parametrize("name", sorted(examples()))
def test_an_example_is_taken(api: Api, name):
    example = examples()[name]
    path = f"{folder(example['kind'])}?dryRun=All&fieldValidation=Strict"
    answer = api.call("POST", path, example)
    assert answer.status_code == 201, answer.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_not_known_is_refused(api: Api, kind):
    example = next(one for one in examples().values() if one["kind"] == kind)
    wrong = {**example, "spec": {**example["spec"], "nodeNmae": "x"}}
    answer = api.call("POST", f"{folder(kind)}?dryRun=All&fieldValidation=Strict", wrong)
    assert answer.status_code == 400
    assert "nodeNmae" in answer.json()["message"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_a_case_is_judged_by_the_server_as_by_us(api: Api, case: Case):
    judged, old = case.objects()
    new = copy.deepcopy(judged)
    place = folder(new["kind"])
    if old is None:
        answer = api.call("POST", f"{place}?dryRun=All", new)
    else:
        stored = api.call("POST", place, old)
        assert stored.status_code == 201, stored.text
        own = f"{place}/{old['metadata']['name']}"
        new["metadata"]["resourceVersion"] = stored.json()["metadata"]["resourceVersion"]
        answer = api.call("PUT", f"{own}?dryRun=All", new)
        assert api.call("DELETE", own).status_code == 200
    if case.breaks:
        assert answer.status_code == 422, answer.text
        assert case.breaks in answer.json()["message"]
    else:
        assert answer.is_success, answer.text
