"""What happens around every call: a deadline, a log line, and errors as statuses."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_csi.proto import csi_pb2
from drystone_csi.status import CODE_METADATA, message_of, status_of

CALL_TIMEOUT_S: Final = 120.0
"""For callers that set no deadline: what kubelet and the sidecars set for theirs at most."""

MARGIN_S: Final = 0.2
"""We end a call this much before its caller would, so that the caller hears why."""

REDACTED: Final = "[redacted]"
VALUE_CHARS_MAX: Final = 200  # an id or a path is whole with this; a log line stays a line
ITEMS_MAX: Final = 20

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Message, Context], Awaitable[Message]]

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    status: grpc.StatusCode
    code: str = ""
    message: str = ""


Ended = Callable[[str, Outcome, float], None]
"""Takes the method, how it ended, and the seconds that it took."""


def _uncounted(_method: str, _outcome: Outcome, _seconds: float) -> None:
    """Nobody counts."""


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every unary method of every service."""

    def __init__(self, ended: Ended = _uncounted) -> None:
        self._ended = ended

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Put the wrapper around the method's handler."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            _wrapped(method, handler.unary_unary, self._ended),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _wrapped(method: str, handler: Handler, ended: Ended) -> Handler:
    async def call(request: Message, context: Context) -> Message:
        began = time.monotonic()
        log = _log.bind(method=method, **_subject(request))
        log.debug("csi_request", request=redacted(request))
        outcome = Outcome(grpc.StatusCode.CANCELLED)
        try:
            answer, outcome = await _outcome(method, handler, request, context)
        finally:
            seconds = time.monotonic() - began
            ended(method, outcome, seconds)
            _report(log, method, outcome, seconds)
        if answer is not None:
            return answer
        context.set_trailing_metadata(((CODE_METADATA, outcome.code),))
        await context.abort(outcome.status, outcome.message)
        raise AssertionError  # abort always raises; this tells the type checker

    return call


async def _outcome(
    method: str, handler: Handler, request: Message, context: Context
) -> tuple[Message | None, Outcome]:
    """Run the handler to its end or its deadline; cancellation passes through."""
    try:
        async with asyncio.timeout(_time_left(context)):
            return await handler(request, context), Outcome(grpc.StatusCode.OK)
    except DrystoneError as error:
        return None, Outcome(status_of(error), error.code, message_of(error))
    except TimeoutError:
        status = grpc.StatusCode.DEADLINE_EXCEEDED
        message = f"{method} did not end within its deadline"
        return None, Outcome(status, "deadline_exceeded", message)
    except NotImplementedError:
        # From the generated base class: a method that is not claimed.
        message = f"{method} is not supported by this driver"
        return None, Outcome(grpc.StatusCode.UNIMPLEMENTED, "unsupported", message)
    except Exception as error:  # noqa: BLE001 - a defect becomes an answer, not a dead driver
        _log.exception("csi_defect", method=method)
        message = f"{method} failed in a way that is a defect: {type(error).__name__}"
        return None, Outcome(grpc.StatusCode.INTERNAL, "internal", message)


def _time_left(context: Context) -> float:
    left = context.time_remaining()
    # None when the caller set no deadline, which the type stub does not know.
    return CALL_TIMEOUT_S if left is None else max(left - MARGIN_S, 0.0)  # type: ignore[redundant-expr]


def _report(log: Any, method: str, outcome: Outcome, seconds: float) -> None:
    fields: dict[str, object] = {
        "status": outcome.status.name,
        "duration_s": round(seconds, 4),
    }
    if outcome.status is grpc.StatusCode.OK:
        # Probes and questions about capabilities come every few seconds.
        quiet = method == "Probe" or method.endswith("GetCapabilities")
        (log.debug if quiet else log.info)("csi_call", **fields)
    else:
        log.warning("csi_call", code=outcome.code, message=outcome.message, **fields)


def _subject(request: Message) -> dict[str, str]:
    """The volume that a call is about, by id or by the name that it is to get."""
    for field in ("volume_id", "name"):
        value = getattr(request, field, "")
        if value:
            return {"volume": str(value)[:VALUE_CHARS_MAX]}
    return {}


def redacted(message: Message) -> dict[str, object]:
    """A message for the log: fields that the interface marks as secret are not in it."""
    shown: dict[str, object] = {}
    for field, value in message.ListFields():
        if field.GetOptions().Extensions[csi_pb2.csi_secret]:
            shown[field.name] = REDACTED
        else:
            shown[field.name] = _shown(field, value)
    return shown


def _shown(field: FieldDescriptor, value: Any) -> object:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        items = list(value.items())[:ITEMS_MAX]
        return {str(key)[:VALUE_CHARS_MAX]: str(item)[:VALUE_CHARS_MAX] for key, item in items}
    if field.is_repeated:
        return [_one(item) for item in list(value)[:ITEMS_MAX]]
    return _one(value)


def _one(value: Any) -> object:
    if isinstance(value, Message):
        return redacted(value)
    return value[:VALUE_CHARS_MAX] if isinstance(value, str | bytes) else value
