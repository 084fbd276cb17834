"""Writes an image as one file, without a container engine.

The file is an OCI layout and a `docker save` archive at once (they share their blobs), so that
`docker load`, `podman load`, `skopeo` and `ctr images import` all take it.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OCI: Final = "application/vnd.oci.image"
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """What is in an image besides its layers."""

    name: str
    created: str
    architecture: str = "amd64"
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int
    source: Path | bytes


def write_archive(spec: ImageSpec, layers: Sequence[Path], output: Path) -> str:
    """Write the archive; gives the digest of the image's manifest, which names its content."""
    blobs = [_of_file(layer) for layer in layers]
    config = _of_json(_config(spec, blobs))
    manifest = _of_json(_manifest(config, blobs))
    partial = output.with_name(output.name + ".part")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(partial, "w") as tar:
        written = set()
        for blob in (*blobs, config, manifest):
            if blob.digest not in written:
                written.add(blob.digest)
                _add(tar, f"blobs/sha256/{blob.digest}", blob.source)
        _add(tar, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(tar, "index.json", _json(_index(spec, manifest)))
        _add(tar, "manifest.json", _json(_docker(spec, config, blobs)))
    partial.replace(output)
    return f"sha256:{manifest.digest}"


def _config(spec: ImageSpec, layers: Sequence[_Blob]) -> dict[str, Any]:
    inner: dict[str, Any] = {"Env": [f"PATH={PATH}", *spec.env]}
    if spec.entrypoint:
        inner["Entrypoint"] = list(spec.entrypoint)
    if spec.user:
        inner["User"] = spec.user
    if spec.labels:
        inner["Labels"] = dict(spec.labels)
    return {
        "architecture": spec.architecture,
        "os": "linux",
        "created": spec.created,
        "config": inner,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
    }


def _manifest(config: _Blob, layers: Sequence[_Blob]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _descriptor(config, f"{OCI}.config.v1+json"),
        "layers": [_descriptor(layer, f"{OCI}.layer.v1.tar") for layer in layers],
    }


def _index(spec: ImageSpec, manifest: _Blob) -> dict[str, Any]:
    entry = _descriptor(manifest, f"{OCI}.manifest.v1+json")
    entry["platform"] = {"architecture": spec.architecture, "os": "linux"}
    entry["annotations"] = {
        "io.containerd.image.name": spec.name,
        "org.opencontainers.image.ref.name": spec.name.rpartition(":")[2],
    }
    return {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [entry]}


def _docker(spec: ImageSpec, config: _Blob, layers: Sequence[_Blob]) -> list[dict[str, Any]]:
    paths = [f"blobs/sha256/{layer.digest}" for layer in layers]
    config_path = f"blobs/sha256/{config.digest}"
    return [{"Config": config_path, "RepoTags": [spec.name], "Layers": paths}]


def _descriptor(blob: _Blob, kind: str) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{blob.digest}", "size": blob.size}


def _of_file(path: Path) -> _Blob:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return _Blob(digest, path.stat().st_size, path)


def _of_json(data: dict[str, Any]) -> _Blob:
    text = _json(data)
    return _Blob(hashlib.sha256(text).hexdigest(), len(text), text)


def _json(data: object) -> bytes:
    return json.dumps(data, sort_keys=True).encode()


def _add(tar: tarfile.TarFile, name: str, source: Path | bytes) -> None:
    # No time and no owner of this machine: equal content is an equal file.
    entry = tarfile.TarInfo(name)
    if isinstance(source, bytes):
        entry.size = len(source)
        tar.addfile(entry, io.BytesIO(source))
        return
    entry.size = source.stat().st_size
    with source.open("rb") as file:
        tar.addfile(entry, file)
