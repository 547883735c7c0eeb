"""The durable cursor: one small file a stream, written whole or not at all.

It holds the ledger at the frontier and the bookmark to listen again from. A full disk leaves the last good file; a
torn or strange one is set aside and said. Start at `Cursors`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from services.contract import Ledger
from services.errors import GenreError
from services.fetcher.heard import Bookmark

log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True)
class Cursor:
    """What a restart needs of one stream."""

    url: str
    ledger: Ledger
    bookmark: Bookmark | None


class Cursors:
    """The cursors under one folder.

    Raises:
        GenreError: where the folder can't be made or written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
        return self._folder / f"{stream}.cursor.json"

    def save(self, stream: str, cursor: Cursor) -> None:
        """Write a cursor: to a new file, synced, then put in the old one's place.

        Raises:
            OSError: e.g. a full disk; the cursor before stays as it was.
        """
        body = {
            "format": FORMAT,
            "url": cursor.url,
            "ledger": cursor.ledger.model_dump(),
            "bookmark": asdict(cursor.bookmark) if cursor.bookmark else None,
        }
        text = json.dumps(body, separators=(",", ":"))
        sealed = json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "cursor": text})
        path = self._path(stream)
        new = path.with_suffix(".new")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(sealed)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def load(self, stream: str, url: str) -> Cursor | None:
        """Return the saved cursor; None where there is none, or where it belongs to another URL or is broken."""
        path = self._path(stream)
        try:
            sealed = json.loads(path.read_bytes())
            text = sealed["cursor"]
            if hashlib.sha256(text.encode()).hexdigest() != sealed["sha256"]:
                raise ValueError("its checksum is wrong")
            cursor = _read(json.loads(text))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise GenreError(str(path), f"can't be read ({error.strerror})", "let this user read it") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._set_aside(path, f"is broken ({error})")
            return None
        if cursor.url != url:
            self._set_aside(path, "belongs to another URL of this stream")
            return None
        return cursor

    def forget(self, stream: str) -> None:
        """Remove a stream's cursor."""
        self._path(stream).unlink(missing_ok=True)

    def _set_aside(self, path: Path, reason: str) -> None:
        kept = path.with_suffix(".set-aside")
        path.replace(kept)
        log.warning("%s %s: kept as %s, the stream starts anew", path.name, reason, kept.name)


def _read(body: Mapping[str, Any]) -> Cursor:
    if body["format"] != FORMAT:
        raise ValueError(f"its format is {body['format']!r}")
    ledger = Ledger.model_validate(body["ledger"])
    if not ledger.adds_up:
        raise ValueError("its ledger does not add up")
    return Cursor(str(body["url"]), ledger, Bookmark(**body["bookmark"]) if body["bookmark"] else None)
