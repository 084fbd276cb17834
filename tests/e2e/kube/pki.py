"""Certificates of the lab's Kubernetes, made anew at each start, and the files that use them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from tests.e2e.kube.settings import API, DOMAIN, HOST, SERVICE_NET, Lab, node_address, node_name
from tests.e2e.kube.shell import run

DAYS: Final = "30"  # a lab lives for hours

API_NAMES: Final = ",".join(
    [
        *(f"DNS:{name}" for name in (
            "kubernetes", "kubernetes.default", "kubernetes.default.svc",
            f"kubernetes.default.svc.{DOMAIN}", "localhost",
        )),
        "IP:127.0.0.1", f"IP:{HOST}", f"IP:{SERVICE_NET}.1",
    ]
)  # fmt: skip


def make_all(lab: Lab) -> None:
    """Everything that the control plane and the nodes need."""
    lab.pki.mkdir(parents=True, mode=0o700)
    authority(lab.pki, "ca")
    authority(lab.pki, "front-ca")
    run(["openssl", "genrsa", "-out", lab.pki / "sa.key", "2048"])
    certificate(lab.pki, "apiserver", "/CN=kube-apiserver", API_NAMES)
    certificate(lab.pki, "front-proxy", "/CN=front-proxy", ca="front-ca")
    certificate(lab.pki, "admin", "/O=system:masters/CN=admin")
    certificate(lab.pki, "scheduler", "/CN=system:kube-scheduler")
    certificate(lab.pki, "kube-proxy", "/CN=system:kube-proxy")
    kubeconfig(lab, "admin", lab.kubeconfig)
    for user in ("scheduler", "kube-proxy"):
        kubeconfig(lab, user, lab.pki / f"{user}.kubeconfig")
    for number in lab.numbers():
        make_node(lab, number)


def make_node(lab: Lab, number: int) -> None:
    """What one node needs."""
    name = node_name(number)
    subject = f"/O=system:nodes/CN=system:node:{name}"
    certificate(lab.pki, name, subject, f"DNS:{name},IP:{node_address(number)}")
    kubeconfig(lab, name, lab.pki / f"{name}.kubeconfig")


def authority(folder: Path, name: str) -> None:
    """A key and its own certificate."""
    _key(folder / f"{name}.key")
    run(["openssl", "req", "-x509", "-new", "-key", folder / f"{name}.key", "-days", DAYS,
         "-subj", f"/CN={name}", "-out", folder / f"{name}.crt"])  # fmt: skip


def certificate(folder: Path, name: str, subject: str, names: str = "", ca: str = "ca") -> None:
    """A key and a certificate, good for both ends of a connection."""
    _key(folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    lines = ["extendedKeyUsage=serverAuth,clientAuth"]
    lines += [f"subjectAltName={names}"] if names else []
    extensions.write_text("\n".join(lines) + "\n")
    run(["openssl", "req", "-new", "-key", folder / f"{name}.key", "-subj", subject,
         "-out", request])  # fmt: skip
    run(["openssl", "x509", "-req", "-in", request, "-CA", folder / f"{ca}.crt",
         "-CAkey", folder / f"{ca}.key", "-CAcreateserial", "-days", DAYS,
         "-extfile", extensions, "-out", folder / f"{name}.crt"])  # fmt: skip
    request.unlink()
    extensions.unlink()


def kubeconfig(lab: Lab, user: str, path: Path) -> None:
    """How a client reaches the API as ``user``. JSON is YAML too."""
    ca, crt, key = (str(lab.pki / name) for name in ("ca.crt", f"{user}.crt", f"{user}.key"))
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": API, "certificate-authority": ca}}],
        "users": [{"name": "lab", "user": {"client-certificate": crt, "client-key": key}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    path.write_text(json.dumps(config, indent=1))
    path.chmod(0o600)


def _key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
