"""The control plane: etcd, API server, controllers, scheduler, DNS, as processes of the host."""

from __future__ import annotations

import os
from typing import Final

from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.node import started
from tests.e2e.kube.settings import DOMAIN, HOST, SERVICE_NET, Lab, LabError
from tests.e2e.lib.waits import wait_for

ETCD: Final = f"http://{HOST}:2379"  # on the bridge: loopback's port may be somebody's own etcd
ETCD_PEER: Final = f"http://{HOST}:2380"
API_S: Final = 120.0
NODE_GRACE: Final = "8s"  # a node that is silent for so long is NotReady; usually 50 s


def start_first(lab: Lab) -> None:
    """What the nodes and the API need."""
    _start(lab, "etcd", _etcd(lab))
    _start(lab, "kube-apiserver", _api(lab))
    (lab.folder / "Corefile").write_text(_corefile(lab))
    _start(lab, "lab-dns", ["-conf", str(lab.folder / "Corefile")])


def wait_api(lab: Lab) -> None:
    """Wait until the API is ready."""
    kubectl = Kubectl(lab)

    def ready() -> bool:
        if started(lab).pid("kube-apiserver") is None:
            log = (lab.log / "kube-apiserver.log").read_text(errors="replace")
            raise LabError(f"the API server ended: {log[-1500:]}")
        return kubectl.try_run("get", "--raw", "/readyz") is not None

    wait_for(ready, "the Kubernetes API", API_S, 0.3)


def start_second(lab: Lab) -> None:
    """What exits for good when it meets an API that is not ready."""
    _start(lab, "kube-controller-manager", _controllers(lab))
    _start(lab, "kube-scheduler", _scheduler(lab))


def _start(lab: Lab, name: str, words: list[str]) -> None:
    started(lab).start(name, [lab.program(name), *words], lab.log / f"{name}.log")


def _etcd(lab: Lab) -> list[str]:
    return [
        "--name=lab",
        f"--data-dir={lab.folder / 'etcd'}",
        f"--listen-client-urls={ETCD}",
        f"--advertise-client-urls={ETCD}",
        f"--listen-peer-urls={ETCD_PEER}",
        f"--initial-advertise-peer-urls={ETCD_PEER}",
        f"--initial-cluster=lab={ETCD_PEER}",
        "--log-level=warn",
        "--unsafe-no-fsync",  # the lab's content is worth nothing after a power cut
    ]


def _api(lab: Lab) -> list[str]:
    pki = lab.pki
    return [
        f"--etcd-servers={ETCD}",
        f"--advertise-address={HOST}",
        f"--bind-address={HOST}",
        "--secure-port=6443",
        f"--service-cluster-ip-range={SERVICE_NET}.0/24",
        "--allow-privileged=true",
        # By name it would ask the machine's DNS, which does not know the nodes.
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--default-not-ready-toleration-seconds=10",
        "--default-unreachable-toleration-seconds=10",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'admin.crt'}",
        f"--kubelet-client-key={pki / 'admin.key'}",
        f"--service-account-issuer=https://kubernetes.default.svc.{DOMAIN}",
        f"--service-account-key-file={pki / 'sa.key'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--requestheader-client-ca-file={pki / 'front-ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front-proxy.crt'}",
        f"--proxy-client-key-file={pki / 'front-proxy.key'}",
        "--enable-aggregator-routing=true",
        "--profiling=false",
    ]


def _controllers(lab: Lab) -> list[str]:
    pki, admin = lab.pki, str(lab.kubeconfig)
    return [
        # As admin, all controllers start at once; with an account each they take turns.
        f"--kubeconfig={admin}",
        f"--authentication-kubeconfig={admin}",
        f"--authorization-kubeconfig={admin}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--leader-elect=false",
        f"--bind-address={HOST}",
        "--node-monitor-period=1s",
        f"--node-monitor-grace-period={os.environ.get('DRYSTONE_KUBE_NODE_GRACE', NODE_GRACE)}",
        "--node-startup-grace-period=20s",
    ]


def _scheduler(lab: Lab) -> list[str]:
    config = str(lab.pki / "scheduler.kubeconfig")
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        f"--bind-address={HOST}",
    ]


def _corefile(lab: Lab) -> str:
    return f"""{DOMAIN} in-addr.arpa {{
  bind {HOST}
  kubernetes {DOMAIN} in-addr.arpa {{
    kubeconfig {lab.kubeconfig}
    pods insecure
  }}
  cache 2
}}
"""
