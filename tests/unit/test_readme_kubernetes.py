"""What the README tells a user of Kubernetes to type has the names that chart and examples have."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.unit.source_tree import ROOT

README = (ROOT / "README.md").read_text()


def here_documents() -> list[list[dict[str, Any]]]:
    return [
        list(yaml.safe_load_all(text))
        for text in re.findall(r"<<'YAML'\n(.*?)\nYAML\n", README, re.DOTALL)
    ]


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "charts/drystone/values.yaml").read_text())
    return found


def example(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "crds/examples" / name).read_text())
    return found


def test_the_claim_is_of_the_charts_class_and_the_pod_mounts_it():
    claim, pod = next(docs for docs in here_documents() if docs[0]["kind"] != "Cluster")
    assert claim["spec"]["storageClassName"] == values()["storageClass"]["name"]
    (volume,) = pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_image_is_the_one_that_the_chart_names():
    assert f"`{values()['image']['repository']}`" in README


def test_every_example_that_is_applied_exists_and_is_in_the_namespace_that_is_used():
    shown = set(re.findall(r"(?:crds/examples|charts)/[\w.-]+", README))
    assert {path for path in shown if not (ROOT / path).exists()} == set()
    for path in shown:
        if path.startswith("crds/"):
            assert example(path.rpartition("/")[2])["metadata"]["namespace"] == "drystone"


def test_the_label_of_storage_nodes_is_that_of_the_example():
    ((label, value),) = example("storagecluster.yaml")["spec"]["nodes"]["selector"].items()
    assert f"{label}={value}" in README


def test_files_for_kind_lie_where_the_small_example_looks_and_there_are_enough_workers():
    spec = example("storagecluster-small.yaml")["spec"]
    (folder,) = spec["disks"]["folders"]
    assert f"truncate -s 4G {folder}/1.img" in README
    (made,) = next(docs for docs in here_documents() if docs[0]["kind"] == "Cluster")
    workers = [node for node in made["nodes"] if node["role"] == "worker"]
    assert len(workers) >= spec["defaultPool"]["copies"]


def test_short_names_of_kinds_are_those_of_the_definitions():
    shorts = set()
    for path in (ROOT / "crds").glob("*.yaml"):
        shorts |= set(yaml.safe_load(path.read_text())["spec"]["names"]["shortNames"])
    used = set(re.findall(r"\bds[a-z]\b", README))
    assert used
    assert used == shorts
