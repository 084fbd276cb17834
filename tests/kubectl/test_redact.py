"""No secret stays in a text or an object, and what helps support does."""

from __future__ import annotations

import base64
import json
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_cli.bundle.redact import KNOWN_CHARS_MIN, REDACTED, Redactor

KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIIrYSSNQFaA2\nHwf1duRSxKtLYX5CB04fSeQ6\n-----END EC PRIVATE KEY-----"  # noqa: E501
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TOKEN = "Zm9vYmFyYmF6cXV4-0123456789_ABCDEFGHIJKLMNOP"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJlLWJ5dGVz"

LEAKS = [
    (f"key: {KEY}", "MHcCAQEEIIrYSSNQFaA2"),
    (json.dumps({"event": KEY}), "Hwf1duRSxKtLYX5CB04fSeQ6"),
    (KEY[:60], "MHcCAQEEIIrYSSNQ"),
    (f"master {HEX} read", HEX),
    (f"Authorization: Bearer {TOKEN}", TOKEN),
    ("Authorization: Bearer short-one-1", "short-one-1"),
    ("curl -H 'authorization: Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
    ('{"token": "hunter2"}', "hunter2"),
    ('{\\"join_token\\": \\"hunter2\\"}', "hunter2"),
    ("etcd_password = 'hunter2'", "hunter2"),
    ('etcd_password = "hun\\"ter2"', "ter2"),
    ("DRYSTONE_TOKEN=hunter2 ", "hunter2"),
    ("--admin-token hunter2", "hunter2"),
    ("--password=hunter2", "hunter2"),
    ("etcd://root:hunter2@10.0.0.1:2379", "hunter2"),
    ("credential: hunter2", "hunter2"),
    ("client_secret=hunter2&x=1", "hunter2"),
    ("tls.key: hunter2", "hunter2"),
    (f"got {JWT} from kubelet", "c2lnbmF0dXJl"),
    (f"a join token {TOKEN} was used", TOKEN),
    (f"admitted with {secrets.token_urlsafe(24)}Aa1", "Aa1"),
]

KEPT = [
    'token_file = "/etc/drystone/tokens/operate"',
    "tokenSecretRef: {name: elsewhere}",
    "automountServiceAccountToken: false",
    "secretName: main-tls",
    "the join token is not valid",
    "image: ghcr.io/drystone@sha256:" + HEX,
    "containerID: containerd://" + HEX,
    "VolumeAttachment csi-" + HEX,
    "uid: 1b4e28ba-2fa1-11d2-883f-0016d3cca427",
    "requiredDuringSchedulingIgnoredDuringExecution",
    '{"event": "drive_formatted", "drive": 7, "bytes": 8589934592}',
    'drystone_server_drive_capacity_bytes{drive="1"} 8.5e+09',
    'etcd_key_file = "/etc/drystone/etcd-tls/tls.key"',
]


@pytest.mark.parametrize(("text", "secret"), LEAKS)
def test_what_looks_like_a_secret_is_taken_out_of_any_text(text, secret):
    found = Redactor().text(text)
    assert secret not in found
    assert REDACTED in found


@pytest.mark.parametrize("text", KEPT)
def test_what_only_names_a_secret_or_is_none_stays(text):
    assert Redactor().text(text) == text


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=KNOWN_CHARS_MIN))
def test_a_known_value_is_taken_out_in_every_form_that_other_layers_give_it(value):
    redactor = Redactor([value])
    encoded = base64.b64encode(value.encode()).decode()
    for text in (
        value,
        f"x={value};",
        f"data: {encoded}",
        base64.b64encode(f"{value}\n".encode()).decode(),
    ):
        assert value not in redactor.text(text)
        assert encoded not in redactor.text(text)


def test_a_known_key_in_hexadecimal_is_found_as_bytes_in_base64_and_in_capitals():
    redactor = Redactor([HEX[:32]])
    raw = base64.b64encode(bytes.fromhex(HEX[:32])).decode()
    found = redactor.text(f"a {HEX[:32].upper()} b {raw} c")
    assert found == f"a {REDACTED} b {REDACTED}== c"


def test_words_that_are_too_short_to_be_secrets_are_left_in():
    assert Redactor(["admin", "read"]).text("admin may read") == "admin may read"


def test_objects_lose_the_values_of_secret_keys_and_secrets_in_their_texts():
    pod = {
        "kind": "Pod",
        "spec": {
            "containers": [
                {
                    "args": ["--token=hunter2", "--config", "/etc/x"],
                    "env": [
                        {"name": "DRYSTONE_PASSWORD", "value": "hunter2"},
                        {"name": "DRYSTONE_TOKEN_FILE", "value": "/etc/token"},
                        {"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    ],
                }
            ],
            "volumes": [{"secret": {"secretName": "main-tls", "items": [{"key": "tls.key"}]}}],
        },
    }
    found = Redactor().value(pod)
    assert "hunter2" not in json.dumps(found)
    (container,) = found["spec"]["containers"]
    assert container["env"][1]["value"] == "/etc/token"
    assert container["env"][2]["valueFrom"]["secretKeyRef"]["name"] == "s"
    assert found["spec"]["volumes"][0]["secret"]["secretName"] == "main-tls"


def test_a_secret_object_loses_everything_it_holds_however_it_came_in():
    body = {"kind": "Secret", "metadata": {"name": "x"}, "data": {"a": "aHVudGVyMg=="}}
    found = Redactor().value({"items": [body]})
    assert found["items"][0]["data"] == REDACTED
    assert found["items"][0]["metadata"] == {"name": "x"}


def test_an_object_that_is_nested_without_end_is_cut():
    value: dict = {}
    value["a"] = value
    assert REDACTED in json.dumps(Redactor().value(value))


@given(st.text())
def test_any_text_is_redacted_without_an_error_and_twice_is_as_once(text):
    redactor = Redactor(["known-value-1"])
    once = redactor.text(text)
    assert redactor.text(once) == once
