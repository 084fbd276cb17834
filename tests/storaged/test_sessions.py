"""What a manager asks of a process, over sessions that come and go."""

from __future__ import annotations

import asyncio

import pytest

from drystone_common.errors import DeadlineError
from drystone_storaged.manager.control.sessions import Session, SessionKey, SessionRegistry
from drystone_storaged.proto import control_pb2 as pb

KEY: SessionKey = ("server", "ab" * 16)


def queued(session: Session) -> list[int]:
    """Ids of the commands that wait to go down a session."""
    found = []
    while not session.outbox.empty():
        message = session.outbox.get_nowait()
        if message is not None:
            found.append(message.command.id)
    return found


async def asked(sessions: SessionRegistry) -> asyncio.Task[pb.CommandResult]:
    task = asyncio.create_task(sessions.command(KEY[1], pb.Command(fence=pb.Fence()), 5.0))
    await asyncio.sleep(0)
    return task


async def test_a_command_asked_before_the_replay_goes_down_once():
    sessions = SessionRegistry()
    session = sessions.open(KEY, "node-1", 1)
    task = await asked(sessions)
    sessions.replay(session)
    assert len(queued(session)) == 1
    task.cancel()


async def test_a_command_is_repeated_to_each_new_session_until_it_is_answered():
    sessions = SessionRegistry()
    first = sessions.open(KEY, "node-1", 1)
    sessions.replay(first)
    task = await asked(sessions)
    (number,) = queued(first)
    second = sessions.open(KEY, "node-1", 1)
    sessions.replay(second)
    assert queued(second) == [number]
    sessions.answered(KEY, pb.CommandResult(id=number))
    assert (await task).id == number
    third = sessions.open(KEY, "node-1", 1)
    sessions.replay(third)
    assert queued(third) == []


async def test_a_command_to_a_process_that_is_away_waits_for_it():
    sessions = SessionRegistry()
    task = await asked(sessions)
    session = sessions.open(KEY, "node-1", 1)
    sessions.replay(session)
    (number,) = queued(session)
    sessions.answered(KEY, pb.CommandResult(id=number))
    assert (await task).id == number


async def test_silence_ends_a_command():
    sessions = SessionRegistry()
    with pytest.raises(DeadlineError):
        await sessions.command(KEY[1], pb.Command(fence=pb.Fence()), 0.01)


async def test_an_answer_to_another_managers_command_answers_no_command_of_this_one():
    """A server goes on with what the former leader asked, such as a scrub, and answers it here."""
    former, mine = SessionRegistry(), SessionRegistry()
    numbers = []
    for sessions in (former, mine):
        session = sessions.open(KEY, "node-1", 1)
        sessions.replay(session)
        task = await asked(sessions)
        numbers += queued(session)
    mine.answered(KEY, pb.CommandResult(id=numbers[0]))
    await asyncio.sleep(0)
    assert not task.done()
    mine.answered(KEY, pb.CommandResult(id=numbers[1]))
    assert (await task).id == numbers[1]
