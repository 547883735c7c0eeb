"""Logging: one line of text a record, or one JSON object a line for journald and log collectors. Quiet by default.

Everything goes to stderr; stdout belongs to results. Start at `set_up`.
"""

from __future__ import annotations

import json
import logging
import sys

from services.contract import utc
from services.settings import Log

_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, service, logger, message, and whatever `extra` gave."""

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
        return json.dumps(line, default=str, ensure_ascii=False)


def set_up(settings: Log, service: str) -> None:
    """Send this process's log to stderr at the configured level and form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(service)
        if settings.json_lines
        else logging.Formatter(f"%(asctime)s %(levelname)-7s {service}: %(message)s")
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for noisy in ("urllib3", "m3u8", "libav"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
