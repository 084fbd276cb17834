"""Writes the generated files of the chart: the CRDs as templates, and the schema of cluster.spec.

``crds/*.yaml`` are the source. Helm installs what lies in a chart's ``crds`` folder once and never
upgrades it, so they become templates that an upgrade upgrades and an uninstall may keep.
``--out DIR`` writes elsewhere: the test that compares the committed files with fresh ones uses it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CRDS: Final = ROOT / "crds"
CHART: Final = "charts/drystone"
SCHEMA: Final = f"{CHART}/values.schema.json"
SCHEMA_PLACE: Final = ("properties", "cluster", "properties", "spec")

HEAD: Final = """\
{{- /* Generated from crds/%s by `make generate`; change it there. */ -}}
{{- if .Values.crds.install }}
"""
METADATA: Final = """\
  labels: {{- include "drystone.labels" (dict "root" . "component" "crds") | nindent 4 }}
  {{- if .Values.crds.keep }}
  annotations:
    # Removing a definition removes every object of it: that is not what an uninstall means.
    helm.sh/resource-policy: keep
  {{- end }}
"""
TAIL: Final = "{{- end }}\n"


def template(path: Path) -> str:
    """Make the template of one definition."""
    text = path.read_text()
    if "{{" in text:
        raise ValueError(f"{path.name} has braces that Helm would read as its own")
    head, name, tail = text.partition(f"  name: {path.stem}.drystone.io\n")
    if not name:
        raise ValueError(f"{path.name} is not named after its resource")
    body = head[head.index("apiVersion:") :] + name + METADATA + tail
    return HEAD % path.name + body + TAIL


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Turn a structural schema into one that Helm checks values with; nothing is required.

    Values are merged over defaults and over ``cluster.external``: what is missing, the API
    server says.
    """
    kept = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength",
            "minItems", "maxItems", "maxProperties")  # fmt: skip
    out = {key: schema[key] for key in kept if key in schema}
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        out["properties"] = {k: json_schema(v) for k, v in schema["properties"].items()}
        out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = json_schema(schema[key])
    return out


def values_schema() -> str:
    """Put the schema of a StorageCluster's spec into that of the values."""
    crd = yaml.safe_load((CRDS / "storageclusters.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    schema = json.loads((ROOT / SCHEMA).read_text())
    place = schema
    for key in SCHEMA_PLACE[:-1]:
        place = place[key]
    place[SCHEMA_PLACE[-1]] = json_schema(spec)
    return json.dumps(schema, indent=2) + "\n"


def generated() -> dict[str, str]:
    """Give every generated file by its path."""
    folder = f"{CHART}/templates/crds"
    files = {f"{folder}/{path.name}": template(path) for path in sorted(CRDS.glob("*.yaml"))}
    return {**files, SCHEMA: values_schema()}


def main() -> None:
    """Write them below the root, or below ``--out``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT)
    out: Path = parser.parse_args().out
    for name, text in generated().items():
        target = out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


if __name__ == "__main__":
    main()
