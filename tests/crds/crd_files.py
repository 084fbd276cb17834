"""The CRD files and examples, read once, and what the API server would make of an object."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import yaml

from drystone_operator import models
from drystone_operator.models.common import Status, Wanted
from tests.unit.source_tree import ROOT

CRDS: Final = ROOT / "crds"
KINDS: Final[dict[str, tuple[type[Wanted], type[Status]]]] = {
    "StorageCluster": (models.StorageClusterSpec, models.StorageClusterStatus),
    "StorageNode": (models.StorageNodeSpec, models.StorageNodeStatus),
    "StorageDisk": (models.StorageDiskSpec, models.StorageDiskStatus),
    "StoragePool": (models.StoragePoolSpec, models.StoragePoolStatus),
}
SERVERS_OWN: Final = {"apiVersion", "kind", "metadata"}  # checked by the API server itself


@cache
def crds() -> dict[str, dict[str, Any]]:
    """Every definition by kind."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(CRDS.glob("*.yaml"))]
    return {one["spec"]["names"]["kind"]: one for one in found}


def schema_of(kind: str) -> dict[str, Any]:
    (version,) = crds()[kind]["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


@cache
def examples() -> dict[str, dict[str, Any]]:
    """Every example by the name of its file."""
    return {
        f"{path.stem}-{number}" if number else path.stem: document
        for path in sorted((CRDS / "examples").glob("*.yaml"))
        for number, document in enumerate(yaml.safe_load_all(path.read_text()))
    }


@dataclass(frozen=True, slots=True)
class Place:
    """A schema node: where it is, and how many times a list or map may repeat it."""

    path: str
    schema: dict[str, Any]
    repeats: int = 1

    def under(self, name: str, schema: dict[str, Any], times: int = 1) -> Place:
        return Place(f"{self.path}.{name}".lstrip("."), schema, self.repeats * times)


def places(schema: dict[str, Any], at: Place | None = None) -> Iterator[Place]:
    """Walk every node of a schema, the root first."""
    here = at or Place("", schema)
    yield here
    for name, child in here.schema.get("properties", {}).items():
        if here.path or name not in SERVERS_OWN:
            yield from places(child, here.under(name, child))
    for name, limit in (("items", "maxItems"), ("additionalProperties", "maxProperties")):
        child = here.schema.get(name)
        if child is not None:
            yield from places(child, here.under(name, child, here.schema.get(limit, 10**9)))


def defaulted(schema: dict[str, Any], value: Any) -> Any:
    """Fill in defaults as the API server does: outermost first, then inside of what is there."""
    if isinstance(value, dict):
        out = dict(value)
        for name, child in schema.get("properties", {}).items():
            if name not in out and "default" in child:
                out[name] = copy.deepcopy(child["default"])
            if name in out:
                out[name] = defaulted(child, out[name])
        return out
    if isinstance(value, list):
        return [defaulted(schema["items"], one) for one in value]
    return value


def as_json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn a structural schema into a JSON schema that refuses what would be pruned."""
    out = {k: v for k, v in schema.items() if not k.startswith("x-kubernetes-") and k != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        return {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", **out}]}
    if "properties" in out:
        out["properties"] = {k: as_json_schema(v) for k, v in out["properties"].items()}
        out["additionalProperties"] = False
    for name in ("items", "additionalProperties"):
        if isinstance(out.get(name), dict):
            out[name] = as_json_schema(out[name])
    return out
