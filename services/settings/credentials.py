"""Secrets come from files, never from argv, the environment or the configuration itself.

systemd's LoadCredential= puts them under $CREDENTIALS_DIRECTORY; where that is older than 247 (JetPack 4.6), the
configured file itself is read. Nothing here is ever logged or part of a repr.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.errors import GenreError

MAX_BYTES = 4096


def located(path: Path) -> Path:
    """Return where a secret file is read from: one of the same name under $CREDENTIALS_DIRECTORY wins."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / path.name if directory and (Path(directory) / path.name).is_file() else path


def password(path: Path | None, key: str) -> str | None:
    """Return the secret in a file, without the newline at its end; None for no file.

    Args:
        key: of the configuration that names the file, e.g. "broker.password_file"; errors send the reader there.

    Raises:
        GenreError: naming the file; never its content.
    """
    if path is None:
        return None
    path = located(path)
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_BYTES + 1)
        text = secret.decode().rstrip("\r\n")
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", f"check {key}") from None
    except UnicodeDecodeError:
        raise GenreError(str(path), "is not UTF-8 text", f"check {key}") from None
    if not text or len(secret) > MAX_BYTES or "\n" in text:
        raise GenreError(str(path), "does not hold one password and nothing else", f"check {key}")
    return text
