"""Values are checked, documented, and generated files are those of their sources."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from drystone_operator.models import StorageClusterSpec
from tests.chart.chart import CHART, RefusedError, render, values_of
from tests.unit.source_tree import ROOT

NONSENSE = {
    "a typo": {"operater": {}},
    "a typo below": {"operator": {"logLevl": "INFO"}},
    "a level that is none": {"operator": {"logLevel": "LOUD"}},
    "text for a switch": {"crds": {"install": "yes"}},
    "a policy that is none": {"storageClass": {"reclaimPolicy": "Keep"}},
    "a file system that is not made": {"storageClass": {"fsType": "btrfs"}},
    "a port that is none": {"networkPolicies": {"ports": {"rest": 70000}}},
    "a digest that is none": {"image": {"digest": "latest"}},
    "no repository": {"image": {"repository": ""}},
    "a typo in the cluster": {"cluster": {"spec": {"metdata": {}}}},
    "a wrong type in the cluster": {"cluster": {"spec": {"managers": {"replicas": 2}}}},
    "a long cluster name": {"cluster": {"name": "a" * 41}},
    "an address without a port": {"cluster": {"external": {"controlEndpoints": ["storage"]}}},
    "a value beyond users": {"priorityClass": {"value": 2_000_000_000}},
    "a namespace twice": {"operator": {"namespaces": ["a", "a"]}},
}
CREATE = {"cluster": {"create": True}}
ELSEWHERE = {"endpoints": ["https://a:8460"], "controlEndpoints": ["a:8461"],
             "tokenSecretName": "t"}  # fmt: skip


@pytest.mark.parametrize("values", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_before_anything_is_made(values):
    with pytest.raises(RefusedError):
        render(values)


def test_a_cluster_without_a_store_is_refused_with_what_to_do():
    with pytest.raises(RefusedError, match=r"cluster\.spec needs metadata"):
        render(CREATE)


def test_a_cluster_where_no_operator_looks_is_refused():
    values = {"operator": {"namespaces": ["other"]}, **CREATE}
    with pytest.raises(RefusedError, match=r"operator\.namespaces leaves out"):
        render(values)


@pytest.mark.parametrize(
    ("external", "told"),
    [
        ({**ELSEWHERE, "tokenSecretName": ""}, "tokenSecretName, or both"),
        ({**ELSEWHERE, "controlEndpoints": []}, "needs controlEndpoints"),
    ],
)
def test_a_cluster_elsewhere_needs_a_way_to_it(external, told):
    with pytest.raises(RefusedError, match=told):
        render({"cluster": {"create": True, "external": external}})


def test_a_cluster_elsewhere_has_no_disks_here():
    with pytest.raises(RefusedError, match=r"cluster\.spec\.disks belongs to a cluster here"):
        render({"cluster": {"create": True, "external": ELSEWHERE, "spec": {"disks": {}}}})


@pytest.mark.parametrize("case", ["cluster", "client-only"])
def test_the_cluster_of_the_values_is_one_that_the_operator_takes(case):
    rendered = render(values_of(case))
    made = json.loads(rendered.one("ConfigMap", "drystone-setup")["data"]["cluster.json"])
    spec = StorageClusterSpec.model_validate(made["spec"])
    assert spec.is_external == (case == "client-only")
    assert {ref.name for ref in spec.secrets} <= {
        one["metadata"]["name"] for one in rendered.of("Secret")
    }


def test_the_priority_that_is_made_is_the_one_that_pods_get():
    rendered = render(values_of("cluster"))
    made = json.loads(rendered.one("ConfigMap", "drystone-setup")["data"]["cluster.json"])
    name = rendered.one("PriorityClass")["metadata"]["name"]
    assert made["spec"]["placement"]["priorityClassName"] == name


def leaves(schema, path=()):
    for name, child in schema.get("properties", {}).items():
        here = (*path, name)
        if child.get("properties") and here[:2] != ("cluster", "spec"):
            yield from leaves(child, here)
        else:
            yield here, child


def test_every_value_is_in_the_schema_and_explained_by_a_comment():
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text().splitlines()
    values = yaml.safe_load("\n".join(text))
    for path, _ in leaves(schema):
        if path[0] == "global" or path[:2] == ("operator", "resources"):
            continue
        at = values
        for name in path:
            at = at[name]
        lines = [n for n, line in enumerate(text) if line.strip().startswith(f"{path[-1]}:")]
        indent = "  " * (len(path) - 1)
        assert any(text[n - 1].startswith(f"{indent}# -- ") for n in lines), path


@pytest.mark.parametrize("script", ["generate_chart.py", "generate_reference.py"])
def test_committed_files_equal_freshly_generated_ones(script, tmp_path):
    subprocess.run(
        [sys.executable, f"scripts/{script}", "--out", str(tmp_path)],
        cwd=ROOT,
        check=True,
        timeout=60,
    )
    fresh = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert fresh
    changed = [name for name, path in fresh.items()
               if (ROOT / name).read_bytes() != path.read_bytes()]  # fmt: skip
    assert not changed, "run `make generate` and commit the result"


def test_no_template_of_a_definition_outlives_it():
    templates = {path.name for path in CHART.glob("templates/crds/*.yaml")}
    assert templates == {path.name for path in (ROOT / "crds").glob("*.yaml")}
