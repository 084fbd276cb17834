"""Bill of materials of the image, in CycloneDX JSON: Debian packages, wheels, crates.

Read from what is installed, from Cargo.lock and from dpkg's list, so it says what is in the image
and not what a scanner recognises. Has no time and no serial number: equal images, equal bills.
"""

from __future__ import annotations

import email.parser
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

Component = dict[str, Any]

OWN: Final = "drystone"  # packages of this checkout are the subject, not its components


def bill(*, version: str, packages: Path, cargo_lock: Path, dpkg_status: str) -> str:
    """The document."""
    components = [*python(packages), *crates(cargo_lock), *debian(dpkg_status)]
    subject = {"type": "container", "name": OWN, "version": version, "bom-ref": OWN}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": subject},
        "components": sorted(components, key=lambda component: str(component["bom-ref"])),
    }
    return json.dumps(document, indent=1) + "\n"


def python(packages: Path) -> Iterator[Component]:
    """The wheels that are installed in a folder of packages."""
    for metadata in sorted(packages.glob("*.dist-info/METADATA")):
        with metadata.open(encoding="utf-8") as file:
            fields = email.parser.HeaderParser().parse(file)
        name, version = str(fields["Name"]), str(fields["Version"])
        if not name.startswith(OWN):
            plain = re.sub(r"[-_.]+", "-", name).lower()
            yield _component(f"pkg:pypi/{plain}@{version}", name, version)


def crates(lock: Path) -> Iterator[Component]:
    """What may be linked into the native package; locked for every target, so rather too much."""
    for package in tomllib.loads(lock.read_text(encoding="utf-8"))["package"]:
        name, version = package["name"], package["version"]
        if "source" in package:
            checksum = package.get("checksum")
            hashes = [{"alg": "SHA-256", "content": checksum}] if checksum else []
            yield _component(f"pkg:cargo/{name}@{version}", name, version, hashes)


def debian(status: str) -> Iterator[Component]:
    """Every installed Debian package."""
    for stanza in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in stanza.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if "installed" not in fields.get("Status", "").split():
            continue
        name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{name}@{quote(version)}?arch={arch}&distro=debian-12"
        yield _component(purl, name, version)


def _component(
    purl: str, name: str, version: str, hashes: Iterable[dict[str, str]] = ()
) -> Component:
    found: Component = {
        "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
    }  # fmt: skip
    hashes = list(hashes)
    return {**found, "hashes": hashes} if hashes else found
