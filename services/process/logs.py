"""Logging: one line of text a record, or one JSON object a line for journald and log collectors. Quiet by default.

Everything goes to stderr; stdout belongs to results. Start at `set_up`.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from services.settings.schema import Log
from services.text import clean, utc

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


MOST_TEXT = 4_000


class LineFormatter(logging.Formatter):
    """One line a record, whatever strangers wrote into it: no forged second record, nothing that a terminal obeys."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Return the record's line."""
        return clean(super().formatMessage(record), MOST_TEXT)

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's name
        """Return a traceback, which has lines of its own."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(" " * (len(line) - len(line.lstrip(" "))) + clean(line, MOST_TEXT) for line in lines)


class JsonFormatter(LineFormatter):
    """One JSON object a record, in ASCII: time, level, service, logger, message, and whatever `extra` gave."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as a JSON line."""
        line = {
            "time": utc(record.created),
            "level": record.levelname.lower(),
            "service": self.service,
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in _STANDARD},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def set_up(settings: Log, service: str) -> None:
    """Send this process's log to stderr at the configured level and form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(service)
        if settings.json_lines
        else LineFormatter(f"%(asctime)s %(levelname)-7s {service}: %(message)s")
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("urllib3", "m3u8", "libav"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
