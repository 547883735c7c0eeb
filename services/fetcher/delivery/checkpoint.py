"""The durable cursor: one small file a stream, written whole or not at all.

It holds the ledger at the frontier and the resume point to listen again from. A full disk leaves the last good file; a
torn or strange one is set aside and said. Start at `Checkpoints`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from services import files
from services.contract.messages import Ledger
from services.errors import GenreError
from services.fetcher.events import ResumePoint

log = logging.getLogger(__name__)

FORMAT = 2
FORMATS = (1, 2)
"""Those that are read; in format 1 a ledger had no identity of its timeline."""

SUFFIX = ".cursor.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a restart needs of one stream.

    Attributes:
        url: as saved it is scheme, host and path: tokens are renewed, and are nobody's business on a disk.
    """

    url: str
    ledger: Ledger
    resume_point: ResumePoint | None


class Checkpoints:
    """The cursors under one folder.

    Args:
        fetcher: instance of the fetcher that writes them.

    Raises:
        GenreError: where the folder can't be made or written.
    """

    def __init__(self, folder: Path, fetcher: str = "") -> None:
        self._folder, self._fetcher = folder, fetcher
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".write-test-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise GenreError(
                str(folder),
                f"the state folder can't be written ({error.strerror})",
                "let this user write there, or set paths.state_dir to another folder",
            ) from error

    def _path(self, stream: str) -> Path:
        return self._folder / f"{stream}{SUFFIX}"

    def save(self, stream: str, cursor: Checkpoint) -> None:
        """Write a cursor in the old one's place.

        Raises:
            OSError: e.g. a full disk; the cursor before stays as it was.
        """
        body = {
            "format": FORMAT,
            "fetcher": self._fetcher,
            "url": _place(cursor.url),
            "ledger": cursor.ledger.model_dump(),
            "bookmark": asdict(cursor.resume_point) if cursor.resume_point else None,
        }
        text = json.dumps(body, separators=(",", ":"))
        sealed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "cursor": text})
        files.replace(self._path(stream), sealed)

    def load(self, stream: str, url: str) -> Checkpoint | None:
        """Return the saved cursor; None where there is none, or where it belongs to another URL or is broken.

        A URL that differs only in its query, fragment or credentials is the same stream.
        """
        cursor = self.read(stream)
        if cursor is not None and cursor.url != _place(url):
            self._set_aside(self._path(stream), "belongs to another URL of this stream")
            return None
        return cursor

    def read(self, stream: str) -> Checkpoint | None:
        """Return the saved cursor, whatever its URL; None where there is none, or where it is broken."""
        path = self._path(stream)
        try:
            sealed = json.loads(path.read_bytes())
            text = sealed["cursor"]
            digest = hashlib.sha256(text.encode()).hexdigest()
            if digest != sealed["sha256"]:
                raise ValueError("its checksum is wrong")
            cursor = _read(json.loads(text), digest[:12])
        except FileNotFoundError:
            return None
        except OSError as error:
            raise GenreError(str(path), f"can't be read ({error.strerror})", "let this user read it") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._set_aside(path, f"is broken ({error})")
            return None
        return cursor

    def has(self, stream: str) -> bool:
        """Say whether a stream has a cursor."""
        return self._path(stream).exists()

    def forget(self, stream: str) -> None:
        """Remove a stream's cursor: whoever listens to it next begins a new timeline.

        Raises:
            OSError: it can't be removed.
        """
        self._path(stream).unlink(missing_ok=True)

    def own_streams(self) -> list[str]:
        """Return the streams whose cursors this fetcher wrote; another one may share the folder."""
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if json.loads(json.loads(path.read_bytes())["cursor"])["fetcher"] == self._fetcher:
                    found.append(path.name.removesuffix(SUFFIX))
        return found

    def _set_aside(self, path: Path, reason: str) -> None:
        kept = path.with_suffix(".set-aside")
        path.replace(kept)
        log.warning("%s %s: kept as %s, the stream starts over", path.name, reason, kept.name)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _read(body: Mapping[str, Any], timeline_id: str) -> Checkpoint:
    """Return what a cursor's body says; a timeline that has no identity yet gets this one, the same at every read."""
    if body["format"] not in FORMATS:
        raise ValueError(f"its format is {body['format']!r}")
    ledger = Ledger.model_validate(body["ledger"])
    if not ledger.adds_up:
        raise ValueError("its ledger does not add up")
    if not ledger.timeline_id:
        ledger = ledger.model_copy(update={"timeline_id": timeline_id})
    point = ResumePoint(**body["bookmark"]) if body["bookmark"] else None
    return Checkpoint(_place(str(body["url"])), ledger, point)
