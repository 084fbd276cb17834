"""The load of one volume in a process of its own, which may be killed and started again.

It takes commands, a JSON object a line, and answers each; beside that it tells its counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from typing import Any, Final, Self

from tests.e2e.lib.waits import NotSeenError, wait_for
from tests.e2e.nemesis.crew import Crew, CrewError
from tests.e2e.nemesis.mix import Layout, Target, Task

TOLD_S: Final = 0.1
ANSWER_S: Final = 300.0  # longer than a checkpoint, in which two requests in turn may hang
END_S: Final = 30.0


class ClientError(Exception):
    """The load could not do what it was told; the message says why."""


class Client:
    """Starts the process; it rests until ``go``."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.counts: dict[str, Any] = {}
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        argv = [sys.executable, "-m", "tests.e2e.nemesis.client"]
        self._process = subprocess.Popen(
            [*argv, json.dumps(dataclasses.asdict(task))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            start_new_session=True,  # it ends with our end of its input, and not before us
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def acked(self) -> int:
        """Changes acknowledged to this process so far."""
        return int(self.counts.get("acked", 0))

    def goes_on(self, more: int, deadline_s: float) -> None:
        """Wait until this many further changes were acknowledged."""
        target = self.acked + more
        wait_for(lambda: self.acked >= target, f"{more} further changes acknowledged", deadline_s)

    def go(self) -> None:
        """Let it work."""
        self._tell("go")

    def rest(self, *, give_up: bool = False) -> None:
        """Return when nothing is under way any more; or break what is, with a hanging daemon."""
        self._tell("rest", give_up=give_up)

    def abandon(self) -> None:
        """Give up what is open: it may or may not have been done."""
        self._tell("abandon")

    def attach(self, target: Target) -> None:
        """Give up what is open, and go on with another attachment."""
        self._tell("attach", **dataclasses.asdict(target))

    def checkpoint(self) -> int:
        """Rest, read every block, begin new journals: then a history can be judged. Blocks read."""
        return int(self._tell("checkpoint")["blocks"])

    def end(self) -> None:
        """End it in order; it is killed when it does not."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._gone()

    def kill(self) -> None:
        """SIGKILL: what it had open is of unknown outcome."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._gone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _gone(self) -> None:
        self._process.wait(END_S)
        self._reader.join(END_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _tell(self, what: str, **more: Any) -> dict[str, Any]:
        pipe = self._process.stdin
        try:
            if pipe is None or pipe.closed:
                raise BrokenPipeError
            pipe.write(json.dumps({"do": what, **more}) + "\n")
            pipe.flush()
            answer = self._answers.get(timeout=ANSWER_S)
        except queue.Empty as error:
            raise NotSeenError(f"no answer to {what} within {ANSWER_S:.0f} s") from error
        except OSError as error:
            raise ClientError(f"the load of volume {self.task.volume} is not running") from error
        if "failed" in answer:
            raise ClientError(f"{what}: {answer['failed']}")
        return answer

    def _read(self) -> None:
        for line in self._process.stdout or ():
            said = json.loads(line)
            if "counts" in said:
                self.counts = said["counts"]
            else:
                self._answers.put(said)
        self._answers.put({"failed": "the load has ended"})


def _do(crew: Crew, command: dict[str, Any]) -> dict[str, Any]:
    what = command.pop("do")
    if what == "attach":
        crew.attach(Target(**command))
    elif what == "checkpoint":
        blocks = crew.sweep()
        crew.rotate()
        return {"blocks": blocks}
    else:
        {"go": crew.go, "rest": crew.rest, "abandon": crew.abandon}[what](**command)
    return {"done": what}


def _obey(crew: Crew, tell: Any) -> None:
    for line in sys.stdin:
        try:
            tell(_do(crew, json.loads(line)))
        except CrewError as error:
            tell({"failed": str(error)})


def _main() -> None:
    fields = json.loads(sys.argv[1])
    crew = Crew(Task(**{**fields, "layout": Layout(**fields["layout"])}))
    lock, ended = threading.Lock(), threading.Event()

    def tell(said: dict[str, Any]) -> None:
        with lock:
            print(json.dumps(said), flush=True)

    def count() -> None:
        while not ended.wait(TOLD_S):
            tell({"counts": crew.counts()})

    teller = threading.Thread(target=count, daemon=True)
    teller.start()
    _obey(crew, tell)
    ended.set()
    teller.join()
    crew.end()
    tell({"counts": crew.counts()})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
