"""A process with several managers goes on with the next one when one refuses or is silent."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import Any

import grpc
import pytest

from drystone_common.errors import DrystoneError
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.session import Session
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import until


class Manager:
    """Answers with its number, or never."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.silent = False
        self.asked = 0
        self.asked_again = asyncio.Event()

    async def read_map(self, _request, _context):
        self.asked += 1
        if self.asked > 1:
            self.asked_again.set()
        if self.silent:
            await asyncio.Event().wait()
        return pb.MapUpdate(revision=self.number)


@contextlib.asynccontextmanager
async def listening(manager: Manager):
    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(
        manager.read_map, pb.ReadMapRequest.FromString, pb.MapUpdate.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["Control"].full_name
    handler = grpc.method_handlers_generic_handler(service, {"ReadMap": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def read(control: Control, timeout_s: float) -> int:
    request = pb.ReadMapRequest()
    answer = await control.call(lambda stub: stub.ReadMap, request, timeout_s=timeout_s)
    return answer.revision


async def test_a_manager_that_is_silent_is_left_for_the_next_one():
    first, second = Manager(1), Manager(2)
    first.silent = True
    async with listening(first) as one, listening(second) as two:
        control = Control([one, two])
        async with asyncio.timeout(30):
            assert await read(control, 0.3) == 2
            assert control.address == two
            assert await read(control, 20.0) == 2
        assert first.asked == 1
        await control.aclose()


async def test_a_manager_that_is_gone_is_left_for_the_next_one():
    async with listening(Manager(1)) as gone:
        pass
    async with listening(Manager(2)) as two:
        control = Control([gone, two])
        async with asyncio.timeout(30):
            assert await read(control, 20.0) == 2
        await control.aclose()


async def test_a_single_silent_manager_is_asked_again_until_it_answers():
    only = Manager(1)
    only.silent = True
    async with listening(only) as address:
        control = Control([address])
        asking = asyncio.create_task(read(control, 0.2))
        async with asyncio.timeout(30):
            await only.asked_again.wait()
            only.silent = False
            assert await asking == 1
        await control.aclose()


async def test_without_an_address_it_says_what_to_set():
    with pytest.raises(DrystoneError) as caught:
        Control([])
    assert "managers" in (caught.value.hint or "")


async def test_what_is_under_way_at_a_manager_that_is_left_is_begun_anew_at_the_next():
    first, second = Manager(1), Manager(2)
    first.silent = True
    async with listening(first) as one, listening(second) as two:
        control = Control([one, two])
        async with asyncio.timeout(30):
            slow = [asyncio.create_task(read(control, 300.0)) for _ in range(3)]
            await until(lambda: first.asked == 3, "three calls under way")
            assert await read(control, 0.3) == 2
            assert [await task for task in slow] == [2, 2, 2]
            assert control.address == two, "however many calls failed, it went on by one"
        await control.aclose()


async def test_a_caller_that_is_cancelled_stays_cancelled():
    only = Manager(1)
    only.silent = True
    async with listening(only) as one, listening(Manager(2)) as two:
        control = Control([one, two])
        asking = asyncio.create_task(read(control, 300.0))
        async with asyncio.timeout(30):
            await until(lambda: only.asked, "the call")
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        assert control.address == one
        await control.aclose()


async def test_a_late_failure_at_an_older_manager_does_not_leave_the_newer_one():
    control = Control(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
    turn = control.turn
    control.next_manager(turn)
    control.next_manager(turn)
    assert control.address == "127.0.0.1:2"
    await control.aclose()


class Sessions:
    """A manager's session and map stream, of which it counts how often they were opened."""

    def __init__(self) -> None:
        self.sessions = self.streams = 0

    async def session(self, requests, _context):
        self.sessions += 1
        yield pb.SessionDown(welcome=pb.Welcome(manager="m"))
        async for _ in requests:
            pass
        await asyncio.Event().wait()

    async def map_stream(self, _request, _context):
        self.streams += 1
        yield pb.MapUpdate(revision=1, map=b"m")
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def streaming(manager: Sessions):
    server = grpc.aio.server()
    methods: dict[str, Any] = {
        "Session": grpc.stream_stream_rpc_method_handler(
            manager.session, pb.SessionUp.FromString, pb.SessionDown.SerializeToString
        ),
        "MapStream": grpc.unary_stream_rpc_method_handler(
            manager.map_stream, pb.MapStreamRequest.FromString, pb.MapUpdate.SerializeToString
        ),
    }
    service = pb.DESCRIPTOR.services_by_name["Control"].full_name
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def test_session_and_map_stream_follow_to_the_next_manager():
    first, second = Sessions(), Sessions()
    async with streaming(first) as one, streaming(second) as two:
        control = Control([one, two])

        async def ignore(_message) -> None:
            return None

        session = Session(control, pb.Hello(instance=1), ignore)
        feed = MapFeed(control, lambda _map, _began: None)
        tasks = [asyncio.create_task(session.run()), asyncio.create_task(feed.run_stream())]
        async with asyncio.timeout(30):
            await until(lambda: first.sessions and first.streams, "both streams")
            await session.connected.wait()
            control.next_manager(control.turn)
            await until(lambda: second.sessions and second.streams, "both streams")
            await session.connected.wait()
        assert not any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended)
        await control.aclose()


async def test_sessions_that_end_leave_nothing_behind_that_fails_later():
    ended = asyncio.Event()

    async def session(requests, _context):
        await anext(aiter(requests))
        yield pb.SessionDown(welcome=pb.Welcome(manager="m"))
        ended.set()

    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(
        session, pb.SessionUp.FromString, pb.SessionDown.SerializeToString
    )
    service = pb.DESCRIPTOR.services_by_name["Control"].full_name
    handler = grpc.method_handlers_generic_handler(service, {"Session": method})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, what: failures.append(what))
    control = Control([f"127.0.0.1:{port}"])

    async def ignore(_message) -> None:
        """Nothing to do."""

    task = asyncio.create_task(Session(control, pb.Hello(instance=1), ignore).run())
    try:
        for _ in range(3):
            async with asyncio.timeout(20):
                await ended.wait()
            ended.clear()
            gc.collect()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del task
        gc.collect()
        await control.aclose()
        await server.stop(None)
    assert not failures
