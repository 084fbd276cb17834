"""Every way of installing gives objects that Kubernetes takes, and the same ones every time."""

from __future__ import annotations

import os
import re

import pytest
import yaml

from tests.chart.chart import CHART, CI, GOLDEN, images, lint, notes, render, values_of
from tests.crds.crd_files import KINDS, crds

CASES = sorted(CI)
# Their schemas belong to other projects; alerts are read by a parser of their own.
OF_OTHERS = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_complain_about(case):
    assert lint(values_of(case)) == []


@pytest.mark.parametrize("case", CASES)
def test_every_object_fits_the_strict_schema_of_kubernetes(case):
    validate = pytest.importorskip("kubernetes_validate")
    # Definitions are the same in every case, and the longest to look through.
    left_out = OF_OTHERS if case == "default" else OF_OTHERS | {"CustomResourceDefinition"}
    objects = [one for one in render(values_of(case)).objects if one["kind"] not in left_out]
    assert objects
    for one in objects:
        validate.validate(one, desired_version=validate.latest_version(), strict=True)


@pytest.mark.parametrize("case", CASES)
def test_objects_are_those_of_the_golden_file(case):
    # Definitions are compared with their source instead, ConfigMaps of files with the files.
    shown = []
    for one in render(values_of(case)).objects:
        if one["kind"] == "CustomResourceDefinition":
            continue
        files = {n: "…" for n in one.get("data", {}) if n.endswith((".py", "drystone.json"))}
        shown.append({**one, "data": {**one["data"], **files}} if files else one)
    text = yaml.safe_dump_all(shown, sort_keys=True, allow_unicode=True, width=110)
    golden = GOLDEN / f"{case}.yaml"
    if os.environ.get("DRYSTONE_UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert golden.read_text() == text, "DRYSTONE_UPDATE_GOLDEN=1 writes it anew; look at the diff"


@pytest.mark.parametrize("case", CASES)
def test_no_two_objects_have_one_name(case):
    names = [
        (one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"])
        for one in render(values_of(case)).objects
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", CASES)
def test_every_object_bears_the_usual_labels(case):
    for one in render(values_of(case)).objects:
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/part-of"] == "drystone"


def test_images_are_those_of_the_values_and_nothing_else_names_one():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    known = set(values["images"].values()) | {f"{values['image']['repository']}:0.1.0"}
    found = {image for one in render().objects for image in images(one)}
    assert found <= known
    # The snapshotter is off by default.
    assert known - found == {values["images"]["snapshotter"]}


def test_no_template_and_no_module_of_the_operator_names_an_image():
    named = re.compile(r"(registry\.k8s\.io|docker\.io|ghcr\.io|quay\.io)/")
    places = [*CHART.glob("templates/**/*"), *(CHART.parents[1] / "operator").rglob("*.py")]
    assert not [place for place in places if place.is_file() and named.search(place.read_text())]


def test_a_digest_wins_over_the_tag():
    digest = "sha256:" + "0" * 64
    rendered = render({"image": {"repository": "r.example/d", "tag": "1", "digest": digest}})
    (container,) = rendered.one("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"r.example/d@{digest}"


def test_the_operator_is_one_pod_that_may_nothing_on_its_node():
    deployment = render().one("Deployment", "drystone-operator")["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_the_operator_takes_the_variables_it_is_given():
    settings = pytest.importorskip("drystone_operator.settings").OperatorSettings
    (container,) = render().one("Deployment")["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"]}
    fields = {f"DRYSTONE_{name.upper()}" for name in settings.model_fields}
    assert set(given) <= fields
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        read = settings()
    assert list(read.namespaces) == ["drystone"]
    assert read.image == container["image"]
    assert read.tls
    assert read.node_service_account == "drystone-node"


def test_pods_get_no_variables_from_services():
    for case in CASES:
        for one in render(values_of(case)).objects:
            if one["kind"] in {"Deployment", "Job", "Pod"}:
                pod = one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
                assert pod["enableServiceLinks"] is False


def test_names_follow_the_release():
    rendered = render(release="other", namespace="elsewhere")
    names = {one["metadata"]["name"] for one in rendered.of("ServiceAccount")}
    assert names == {
        "other-drystone-operator",
        "other-drystone-csi-controller",
        "other-drystone-csi-node",
        "other-drystone-node",
    }
    assert {one["metadata"]["namespace"] for one in rendered.of("ServiceAccount")} == {"elsewhere"}


def test_a_long_release_name_leaves_room_for_what_is_added():
    rendered = render(release="r" * 53)
    assert max(len(one["metadata"]["name"]) for one in rendered.of("Deployment")) <= 52


def test_definitions_stay_when_the_release_goes():
    definitions = render().of("CustomResourceDefinition")
    assert len(definitions) == len(KINDS)
    for one in definitions:
        assert one["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_definitions_are_those_of_their_source():
    for one in render().of("CustomResourceDefinition"):
        source = crds()[one["spec"]["names"]["kind"]]
        assert one["spec"] == source["spec"]
        assert one["metadata"]["name"] == source["metadata"]["name"]


def test_definitions_may_go_too_or_not_come_at_all():
    for one in render({"crds": {"keep": False}}).of("CustomResourceDefinition"):
        assert "annotations" not in one["metadata"]
    assert render({"crds": {"install": False}}).of("CustomResourceDefinition") == []


def test_the_storage_class_is_never_the_default_by_guess():
    # Rendered without a cluster there is nobody to ask which classes there are.
    assert "annotations" not in render().one("StorageClass")["metadata"]
    always = render({"storageClass": {"default": "Always"}}).one("StorageClass")
    assert always["metadata"]["annotations"] == {
        "storageclass.kubernetes.io/is-default-class": "true"
    }


def test_snapshots_are_taken_up_only_where_they_are_wanted():
    assert "SNAPSHOTTER" not in str(render().objects)
    assert "SNAPSHOTTER" not in str(render({"snapshots": {"sidecar": "Auto"}}).objects)
    assert "SNAPSHOTTER" in str(render({"snapshots": {"sidecar": "Enabled"}}).objects)


def test_the_notes_say_what_comes_next():
    told = notes()
    assert "kind: StorageCluster" in told
    assert "storageclass drystone" in told.lower()
    assert "its data is elsewhere" in notes(values_of("client-only"))
