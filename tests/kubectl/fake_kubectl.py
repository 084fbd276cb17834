"""A kubectl for tests: it relays to a fake API server and to fake pods, and runs no container.

Run as a program. ``FAKE_KUBE`` is a JSON file: {"api": "host:port", "namespace": text,
"pods": {"namespace/pod": "host:port"}, "exec": {"namespace/pod": file with what it prints},
"log": file that takes each command line}.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path


def relay(one: socket.socket, other: socket.socket) -> None:
    try:
        while data := one.recv(65536):
            other.sendall(data)
    except OSError:
        pass
    finally:
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, address: str) -> None:
    host, _, port = address.rpartition(":")
    while True:
        client, _ = listener.accept()
        server = socket.create_connection((host, int(port)))
        for pair in ((client, server), (server, client)):
            threading.Thread(target=relay, args=pair, daemon=True).start()


def option(argv: list[str], name: str) -> str:
    for n, word in enumerate(argv):
        if word == name:
            return argv[n + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def proxy(world: dict, argv: list[str]) -> None:
    path = option(argv, "--unix-socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print(f"Starting to serve on {path}", flush=True)
    serve(listener, world["api"])


def port_forward(world: dict, argv: list[str]) -> None:
    pod = next(word for word in argv if word.startswith("pod/")).removeprefix("pod/")
    address = world["pods"].get(f"{option(argv, '--namespace')}/{pod}")
    if address is None:
        sys.exit(f'Error from server (NotFound): pods "{pod}" not found')
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    print(f"Forwarding from 127.0.0.1:{port} -> {argv[-1][1:]}", flush=True)
    serve(listener, address)


def execute(world: dict, argv: list[str]) -> None:
    head, program = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    namespace, container = option(head, "--namespace"), option(head, "--container")
    pod = next(
        word for word in head[1:] if not word.startswith("-") and word not in (namespace, container)
    )
    file = world["exec"].get(f"{namespace}/{pod}")
    if file is None:
        sys.exit(f"error: {program[0]}: not found")
    print(Path(file).read_text(), end="")
    sys.exit(1)  # what was found is not well: the caller wants the output all the same


def main(argv: list[str]) -> None:
    world = json.loads(Path(os.environ["FAKE_KUBE"]).read_text())
    with Path(world["log"]).open("a") as log:
        log.write(json.dumps(argv) + "\n")
    (Path(world["log"]).parent / "pids" / str(os.getpid())).touch()
    argv = [word for word in argv if not word.startswith("--context=")]
    if argv[0] == "config":
        print(world["namespace"], end="")
    elif argv[0] == "proxy":
        proxy(world, argv)
    elif argv[0] == "port-forward":
        port_forward(world, argv)
    elif argv[0] == "exec":
        execute(world, argv)
    else:
        sys.exit(f"unknown command {argv[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
