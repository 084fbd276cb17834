"""The image's archive, layers and bill of materials."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest
from scripts.image import debian, sbom, tree
from scripts.image.archive import ImageSpec, write_archive
from scripts.image.trees import tar_tree

from tests.unit.source_tree import ROOT

SPEC = ImageSpec(
    "localhost/x:1", "2000-01-01T00:00:00Z", entrypoint=("/bin/x",), user="65532:65532"
)


@pytest.fixture
def layers(tmp_path: Path) -> list[Path]:
    found = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.txt").write_text(name)
        found.append(tar_tree(folder, tmp_path / f"{name}.tar", epoch=0))
    return found


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_every_blob_lies_at_its_own_digest(layers, tmp_path):
    write_archive(SPEC, layers, tmp_path / "image.tar")
    blobs = {n: d for n, d in members(tmp_path / "image.tar").items() if n.startswith("blobs/")}
    assert len(blobs) == 4  # two layers, configuration, manifest
    assert all(name.endswith(hashlib.sha256(data).hexdigest()) for name, data in blobs.items())


def test_both_forms_of_the_archive_name_the_same_layers_and_configuration(layers, tmp_path):
    digest = write_archive(SPEC, layers, tmp_path / "image.tar")
    found = members(tmp_path / "image.tar")
    index = json.loads(found["index.json"])["manifests"][0]
    assert index["digest"] == digest
    assert index["annotations"]["io.containerd.image.name"] == "localhost/x:1"
    manifest = json.loads(found[f"blobs/sha256/{digest.removeprefix('sha256:')}"])
    docker = json.loads(found["manifest.json"])[0]
    assert docker["Layers"] == [
        f"blobs/sha256/{layer['digest'].removeprefix('sha256:')}" for layer in manifest["layers"]
    ]
    config = json.loads(found[docker["Config"]])
    assert config["config"]["User"] == "65532:65532"
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]


def test_the_same_content_gives_the_same_archive_whenever_it_is_made(layers, tmp_path):
    assert write_archive(SPEC, layers, tmp_path / "1") == write_archive(
        SPEC, layers, tmp_path / "2"
    )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_layer_has_no_trace_of_who_made_it_and_when(tmp_path):
    (tmp_path / "tree" / "bin").mkdir(parents=True)
    (tmp_path / "tree" / "bin" / "run").write_text("x")
    (tmp_path / "tree" / "bin" / "run").chmod(0o755)
    with tarfile.open(tar_tree(tmp_path / "tree", tmp_path / "t.tar", epoch=7)) as tar:
        entries = tar.getmembers()
    assert [entry.name for entry in entries] == ["bin", "bin/run"]
    assert {(e.uid, e.gid, e.uname, e.mtime) for e in entries} == {(0, 0, "", 7)}
    assert entries[1].mode & 0o777 == 0o755


def test_the_bill_lists_wheels_crates_and_debian_packages_and_not_ourselves(tmp_path):
    for name, version in (("Some_Thing", "1.2"), ("drystone", "0.1.0")):
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
    lock = tmp_path / "Cargo.lock"
    lock.write_text(
        '[[package]]\nname = "ours"\nversion = "1.0.0"\n'
        '[[package]]\nname = "theirs"\nversion = "2.0.0"\nsource = "registry"\nchecksum = "ab"\n'
    )
    status = (
        "Package: tini\nStatus: install ok installed\nArchitecture: amd64\nVersion: 0.19.0-1\n"
        "Description: x\n Version: not a field\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    text = sbom.bill(version="0.1.0", packages=tmp_path, cargo_lock=lock, dpkg_status=status)
    assert [component["purl"] for component in json.loads(text)["components"]] == [
        "pkg:cargo/theirs@2.0.0",
        "pkg:deb/debian/tini@0.19.0-1?arch=amd64&distro=debian-12",
        "pkg:pypi/some-thing@1.2",
    ]


def test_the_dockerfile_and_the_build_without_an_engine_agree():
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"USER {debian.USER}" in dockerfile
    assert '"/usr/bin/tini", "--", "/usr/local/bin/drystone"' in dockerfile
    version = next(
        line.partition("=")[2].strip('"')
        for line in (ROOT / "scripts" / "lib.sh").read_text().splitlines()
        if line.startswith("UV_VERSION=")
    )
    assert f"ARG UV_VERSION={version}\n" in dockerfile


def test_the_image_has_every_tool_that_the_processes_start():
    assert {"python3", "e2fsprogs", "xfsprogs", "util-linux", "mount", "fuse3"} <= set(
        debian.packages()
    )


def test_what_the_build_reads_is_not_kept_out_of_a_container_engine():
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    sources = {path.name for path in ROOT.iterdir() if (path / f"drystone_{path.name}").is_dir()}
    assert sources <= kept
    assert tree.NATIVE.relative_to(ROOT).parts[0] in kept
