"""The program that applies the StorageCluster of the values, against an API server of our own."""

from __future__ import annotations

import http.server
import importlib.util
import json
import threading
import time

import pytest

from tests.chart.chart import CHART

CLUSTER = {
    "apiVersion": "drystone.io/v1alpha1",
    "kind": "StorageCluster",
    "metadata": {"name": "main", "namespace": "stone"},
    "spec": {"metadata": {"type": "sqlite"}},
}


@pytest.fixture
def program(monkeypatch):
    spec = importlib.util.spec_from_file_location(
        "apply_cluster", CHART / "files" / "apply_cluster.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PAUSE_S", 0.01)
    monkeypatch.setenv("DRYSTONE_SETUP_SCHEME", "http")
    return module


@pytest.fixture
def identity(tmp_path):
    (tmp_path / "token").write_text("made-up\n")
    return tmp_path


@pytest.fixture
def api_server(monkeypatch):
    """Answers with what ``answers`` has, the last one for ever; ``calls`` has what came."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answers: list = []  # noqa: RUF012 - one server in a test
        calls: list = []  # noqa: RUF012

        def do_PATCH(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.calls.append((self.path, dict(self.headers), json.loads(body)))
            code, message = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            text = json.dumps({"kind": "Status", "message": message}).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    Handler.answers, Handler.calls = [], []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.server_port))
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def soon():
    return time.monotonic() + 30


def test_a_cluster_is_applied_in_the_charts_name(program, api_server, identity):
    api_server.answers[:] = [(200, "")]
    assert program.apply(CLUSTER, soon(), identity) == ""
    ((path, headers, body),) = api_server.calls
    assert path.startswith(
        "/apis/drystone.io/v1alpha1/namespaces/stone/storageclusters/main?fieldManager="
    )
    assert headers["Authorization"] == "Bearer made-up"
    assert headers["Content-Type"] == "application/apply-patch+yaml"
    assert body == CLUSTER


def test_it_waits_until_the_definition_is_served(program, api_server, identity):
    api_server.answers[:] = [(404, "no such kind"), (503, "not yet"), (403, "soon"), (200, "")]
    assert program.apply(CLUSTER, soon(), identity) == ""
    assert len(api_server.calls) == 4


def test_a_refusal_is_told_in_the_servers_words_and_not_repeated(program, api_server, identity):
    api_server.answers[:] = [(422, "spec.managers: sqlite allows one manager only")]
    assert program.apply(CLUSTER, soon(), identity) == (
        "spec.managers: sqlite allows one manager only"
    )
    assert len(api_server.calls) == 1


def test_it_ends_at_its_deadline_with_the_last_reason(program, api_server, identity):
    api_server.answers[:] = [(404, "no such kind")]
    assert program.apply(CLUSTER, time.monotonic(), identity) == "no such kind"


def test_a_server_that_is_away_is_told_of_too(program, identity, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    assert "refused" in program.apply(CLUSTER, time.monotonic(), identity)


def test_an_address_of_ipv6_is_written_as_one(program, monkeypatch):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert program.address(CLUSTER).startswith("http://[fd00::1]:443/apis/")
