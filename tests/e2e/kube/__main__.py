"""`make kube-up`, `-demo`, `-e2e`, `-down`; and by hand: scripts/kube.sh --help."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Final

from tests.e2e.kube import (
    cgroups,
    cluster,
    demo,
    evidence,
    kind,
    network,
    node,
    operated,
    plain,
    tools,
)
from tests.e2e.kube.settings import Lab, LabError, from_environment
from tests.e2e.kube.shell import Steps
from tests.e2e.lib.stop import end_in_order
from tests.e2e.lib.waits import NotSeenError

SCENARIOS: Final = {"plain": plain.run, "operated": operated.run, "short": operated.short}
WHOLE: Final = ("plain", "operated")

NODE_ACTIONS: Final = {
    "start": "power on, with the disk that it had",
    "kill": "power cut: all of its processes, mounts and devices are gone at once",
    "freeze": "every process of it hangs",
    "thaw": "they go on",
    "cut": "network cable out",
    "join": "network cable in",
    "enter": "run a program in it, a shell if none is named",
}


def main() -> int:
    """Run one command; the exit code says whether it worked."""
    end_in_order()
    arguments = _parser().parse_args()
    try:
        _run(arguments, from_environment(), Steps())
    except (LabError, NotSeenError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/kube.sh", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("tools", "install and build what the lab runs, into its cache"),
        ("up", "start the lab"),
        ("demo", "start the lab with Drystone in it, leave it, and print a tour"),
        ("kind", "end to end in a Kubernetes that kind makes"),
        ("down", "take the lab away, with everything that it made"),
        ("plain", "end to end with plain manifests, in the lab that is up"),
        ("operated", "end to end with chart and operator, in the lab that is up"),
        ("short", "its short form: a volume is used, and a node dies"),
    ):
        commands.add_parser(name, help=text)
    e2e = commands.add_parser("e2e", help="start the lab, test the image in it, take it away")
    e2e.add_argument("--keep", action="store_true", help="leave the lab up, to look into it")
    e2e.add_argument("--short", action="store_true", help="only the short form")
    some = commands.add_parser("some", help="named scenarios with chart and operator, left as is")
    some.add_argument("scenario", nargs="+", choices=list(operated.SCENARIOS))
    load = commands.add_parser("load", help="import an image archive into every node")
    load.add_argument("archive", type=Path)
    for name, text in NODE_ACTIONS.items():
        action = commands.add_parser(name, help=f"a node: {text}")
        action.add_argument("node", type=int)
        if name == "enter":
            action.add_argument("argv", nargs=argparse.REMAINDER)
    return parser


def _run(arguments: argparse.Namespace, lab: Lab, steps: Steps) -> None:
    command = arguments.command
    if command == "tools":
        cluster.need_root()
        tools.install(lab, steps)
    elif command == "up":
        cluster.up(lab, steps)
    elif command == "down":
        cluster.down(lab, steps)
    elif command == "demo":
        demo.run(lab, steps)
    elif command == "kind":
        kind.run(lab, steps)
    elif command == "load":
        cluster.load(lab, arguments.archive, steps)
    elif command in SCENARIOS:
        cluster.need_up(lab)
        SCENARIOS[command](lab, steps)
    elif command == "e2e":
        _end_to_end(lab, steps, ("short",) if arguments.short else WHOLE, keep=arguments.keep)
    elif command == "some":
        cluster.need_up(lab)
        operated.some(lab, steps, tuple(arguments.scenario))
    else:
        cluster.need_up(lab)
        _node(arguments, lab)


def _end_to_end(lab: Lab, steps: Steps, names: tuple[str, ...], *, keep: bool) -> None:
    """In a lab of its own, unless one is up already, which then stays."""
    keep = keep or cluster.is_up(lab)
    passed = 0
    cluster.up(lab, steps)
    try:
        for name in names:
            steps.say(f"end to end: {name}")
            passed += SCENARIOS[name](lab, steps)
    except (LabError, NotSeenError):
        with contextlib.suppress(LabError):
            evidence.show(lab)
        raise
    finally:
        if not keep:
            cluster.down(lab, steps)
    print(f"{passed} passed, 0 failed")


def _node(arguments: argparse.Namespace, lab: Lab) -> None:
    command, number = arguments.command, arguments.node
    if number not in lab.numbers():
        raise LabError(f"there are nodes 1 to {lab.node_count}")
    if command == "start":
        node.start(lab, number)
        node.wait_running(lab, number)
    elif command == "kill":
        node.kill(lab, number)
    elif command in ("freeze", "thaw"):
        cgroups.freeze(lab, number, frozen=command == "freeze")
    elif command == "cut":
        network.cut(number)
    elif command == "join":
        network.join(number)
    else:
        node.enter(lab, number, arguments.argv)


if __name__ == "__main__":
    sys.exit(main())
