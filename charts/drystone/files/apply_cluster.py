"""Applies the StorageCluster of the chart's values, from inside of the cluster.

A release cannot hold an object whose definition it brings along: Helm looks for the definition
before it installs anything. So a Job applies it afterwards, server-side, as `kubectl apply` would.
Standard library only. Arguments: the object as a JSON file, and the seconds that it may take.
"""

# ruff: noqa: INP001, S310, T201 - a program of its own; the address is the API server's
from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# The definition was made a moment ago: until it is served, the address is not found.
# Right after an install it may also be that the role is not yet in force.
LATER = {403, 404, 408, 429, 500, 502, 503, 504}
PAUSE_S = 1.0


def address(thing: dict) -> str:
    """The object's address, for a server-side apply in the chart's name."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    host = f"[{host}]" if ":" in host else host
    scheme = os.environ.get("DRYSTONE_SETUP_SCHEME", "https")
    meta = thing["metadata"]
    path = f"/apis/{thing['apiVersion']}/namespaces/{meta['namespace']}/storageclusters"
    query = "fieldManager=drystone-chart&force=true&fieldValidation=Strict"
    return f"{scheme}://{host}:{port}{path}/{meta['name']}?{query}"


def request(thing: dict, identity: Path) -> urllib.request.Request:
    """The request, with the token as it is now: it is renewed while the pod runs."""
    headers = {
        "Authorization": f"Bearer {(identity / 'token').read_text().strip()}",
        "Content-Type": "application/apply-patch+yaml",
        "Accept": "application/json",
    }
    body = json.dumps(thing).encode()
    return urllib.request.Request(address(thing), data=body, headers=headers, method="PATCH")


def reason(error: urllib.error.HTTPError) -> str:
    """What the API server says; it names the field and the rule."""
    try:
        return str(json.loads(error.read(65536))["message"])
    except (ValueError, KeyError, TypeError):
        return str(error)


def apply(thing: dict, deadline: float, identity: Path = IDENTITY) -> str:
    """Apply until it is taken, refused or too late; empty means taken."""
    authority = identity / "ca.crt"
    context = ssl.create_default_context(cafile=str(authority) if authority.exists() else None)
    while True:
        try:
            with urllib.request.urlopen(request(thing, identity), timeout=15, context=context):
                return ""
        except urllib.error.HTTPError as error:
            told = reason(error)
            if error.code not in LATER:
                return told
        except OSError as error:
            told = str(error)
        if time.monotonic() >= deadline:
            return told
        time.sleep(PAUSE_S)


def main() -> int:
    """Read, apply, say what came of it."""
    thing = json.loads(Path(sys.argv[1]).read_text())
    refused = apply(thing, time.monotonic() + float(sys.argv[2]))
    print(refused or f"StorageCluster {thing['metadata']['name']} is applied")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
