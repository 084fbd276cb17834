"""Logs: one line an event, JSON for machines, colour for people, secrets never.

An event is a short constant; what varies goes into keys. Context that belongs to a whole call
(volume, node, request id) is bound with ``structlog.contextvars``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["json", "console"]

REDACTED: Final = "[redacted]"
_SECRET: Final = re.compile(
    r"(secret|token|passw|passphrase|credential|authorization|cookie|ticket|private|(^|_)key$|master)",
    re.IGNORECASE,
)
_DEPTH_MAX: Final = 6  # deeper values are nothing that we log; bounds the walk over foreign data
_ITEMS_MAX: Final = 100  # likewise for their width


def configure_logging(
    component: str,
    *,
    level: str = "INFO",
    fmt: LogFormat | None = None,
    stream: TextIO | None = None,
) -> None:
    """Route structlog and the standard library's loggers to one stream in one format.

    Called once, by a process's start-up. Without ``fmt`` a terminal gets colour, all else JSON.
    """
    out = stream or sys.stderr
    chosen = fmt or ("console" if out.isatty() else "json")
    shared = _shared_processors(component)
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(chosen, colors=out.isatty()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        # uvicorn brings handlers of its own; everything goes through the root's.
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        # Off: tests reconfigure, and module-level loggers must follow.
        cache_logger_on_first_use=False,
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Give the logger of a module; pass ``__name__``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Replace the value of every key that names a secret, at any depth."""
    return {key: _redacted(key, value, 0) for key, value in event.items()}


def _redacted(key: str, value: object, depth: int) -> object:
    if _SECRET.search(key):
        return REDACTED
    if depth >= _DEPTH_MAX:
        return "[too deep]" if isinstance(value, Mapping | list | tuple) else value
    if isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS_MAX]
        return {str(k): _redacted(str(k), v, depth + 1) for k, v in items}
    if isinstance(value, list | tuple):
        return [_redacted("", item, depth + 1) for item in value[:_ITEMS_MAX]]
    if isinstance(value, bytes | bytearray | memoryview):
        # User data and keys travel as bytes; a log needs their length at most.
        return f"[{len(value)} bytes]"
    return value


def _shared_processors(component: str) -> list[Processor]:
    def add_component(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event.setdefault("component", component)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_component,
        redact,
    ]


def _renderers(fmt: LogFormat, *, colors: bool) -> list[Processor]:
    # Neither form shows the local variables of the frames: keys and credentials are among them.
    if fmt == "console":
        plain = structlog.dev.plain_traceback
        return [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
    traces = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(traces),
        structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
    ]
