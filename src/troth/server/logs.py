"""Structured logs. Every server module logs here: an event and its fields, over the standard library's loggers.

Nothing global is configured on import: inside another program (`troth.embedded()`) that program's own handlers decide
what is shown, and see `event key=value …`. `troth serve` installs one handler on the logger `troth`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

try:
    import structlog
except ImportError as missing:
    raise ImportError("the coordinator needs more libraries: pip install 'troth[server]'") from missing

Fields = MutableMapping[str, Any]
Renderer = Callable[[Any, str, Fields], str | bytes]


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of fields, in front of the standard logger `name`."""
    logger = structlog.wrap_logger(
        logging.getLogger(name), processors=[_hand_over], wrapper_class=structlog.stdlib.BoundLogger
    )
    return cast(structlog.stdlib.BoundLogger, logger)


def _hand_over(_logger: Any, _method: str, fields: Fields) -> tuple[tuple[str], dict[str, Any]]:
    """Turn event and fields into what a standard logger takes; the fields travel along for `FieldsFormatter`."""
    event = str(fields.pop("event"))
    exc_info = fields.pop("exc_info", None)
    text = " ".join([event, *(f"{key}={value!r}" for key, value in fields.items())])
    return (text,), {"exc_info": exc_info, "extra": {"event": event, "fields": dict(fields)}}


class FieldsFormatter(logging.Formatter):
    """Renders a record, ours or a library's, by a structlog renderer."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__()
        self._renderer = renderer

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more with a traceback."""
        fields: Fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", None) or record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        rendered = self._renderer(None, record.levelname.lower(), fields)
        return rendered if isinstance(rendered, str) else rendered.decode()


def log_to_stderr(level: str, form: str, stream: TextIO = sys.stderr) -> None:
    """Show `troth` from `level` on, and warnings of all else, on `stream`. Replaces what was installed before."""
    as_json = form == "json" or (form == "auto" and not stream.isatty())
    renderer: Renderer = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=stream.isatty())
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(FieldsFormatter(renderer))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    structlog.configure(
        processors=[_hand_over],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    logging.getLogger("troth").setLevel(level.upper())
