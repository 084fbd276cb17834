"""Which Kubernetes a command line means, if any. Light: every command imports it."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLUGIN: Final = "kubectl-drystone"
"""Name under which `kubectl` finds this program: `kubectl drystone …`."""

FLAG: Final = "--kube"
WITH_VALUE: Final = ("--context", "--namespace", "-n")


@dataclass(frozen=True, slots=True)
class Target:
    """A context of the kubeconfig and a namespace; empty = the current one."""

    context: str = ""
    namespace: str = ""


_chosen: ContextVar[Target | None] = ContextVar("drystone_kube_target", default=None)


def chosen() -> Target | None:
    """What this command line means; None = no Kubernetes."""
    return _chosen.get()


def choose(target: Target | None) -> None:
    """Set by the root of the command tree, before a command runs."""
    _chosen.set(target)


def shown_name(program: str) -> str:
    """What a person typed for this program."""
    return "kubectl drystone" if Path(program).name == PLUGIN else "drystone"


def hoisted(program: str, argv: Sequence[str]) -> list[str]:
    """The arguments with what names the Kubernetes in front.

    `kubectl` lets its plugins read their options themselves, and people write them at the end.
    """
    front = [FLAG] if Path(program).name == PLUGIN else []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word in WITH_VALUE:
            front += [word, *[value for value in [next(words, None)] if value is not None]]
        elif word == FLAG or word.startswith(("--context=", "--namespace=")):
            front.append(word)
        else:
            rest.append(word)
    return [*front, *rest]


def meant(hoisted: Sequence[str]) -> bool:
    """Whether arguments in that order name a Kubernetes."""
    return bool(hoisted) and hoisted[0].partition("=")[0] in (FLAG, *WITH_VALUE)
