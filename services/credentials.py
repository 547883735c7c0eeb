"""Secrets come from files, never from argv, the environment or the configuration itself.

systemd's LoadCredential= puts them under $CREDENTIALS_DIRECTORY; where that is older than 247 (JetPack 4.6), the
configured file itself is read. Nothing here is ever logged or part of a repr.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.errors import GenreError

MAX_BYTES = 4096


def password(path: Path | None) -> str | None:
    """Return the secret in a file, without the newline at its end; None for no file.

    A file of the same name under $CREDENTIALS_DIRECTORY wins.

    Raises:
        GenreError: naming the file; never its content.
    """
    if path is None:
        return None
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and (Path(directory) / path.name).is_file():
        path = Path(directory) / path.name
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_BYTES + 1)
        text = secret.decode().rstrip("\r\n")
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", "check broker.password_file") from None
    except UnicodeDecodeError:
        raise GenreError(str(path), "is not UTF-8 text", "check broker.password_file") from None
    if not text or len(secret) > MAX_BYTES or "\n" in text:
        raise GenreError(str(path), "does not hold one password and nothing else", "check broker.password_file")
    return text
