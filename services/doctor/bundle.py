"""`genre support-bundle`: one archive with what a maintainer needs, and no secret in it.

Secrets are found in two ways: every value that a configured secret file holds, and every shape that carries one (user
information, folders and queries of URLs, words like password=). Start at `Redactor`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import click

from services import files
from services.doctor.command import diagnose
from services.errors import GenreError, UsageError
from services.settings import loading, schema

REMOVED = "(removed)"
LARGEST = 5_000_000
MOST_LOGS = 100
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_URL_QUERY = re.compile(r"(\bhttps?://[^\s?'\"<>]+\?)[^\s'\"<>]+", re.IGNORECASE)
_URL_PATH = re.compile(r"(\b(?:https?|wss?)://[^/\s?#'\"<>]+/)([^\s?#'\"<>]+)", re.IGNORECASE)
_PLAIN_NAME = re.compile(r"[\w.-]{0,20}\.\w{1,5}|")
_LIKE_A_TOKEN = re.compile(r"(?=.*\d)[\w~+=.-]{10,}|[\w~+=-]{24,}")
_NAMED = re.compile(
    r"(?i)(\b(?:[\w-]*(?:password|passwd|secret|token|api[_-]?key|authorization|cookie)[\w-]*)\b['\"]?\s*[:= ]\s*)"
    r"(?!file\b)(\"[^\"\n]*\"|'[^'\n]*'|(?:(?:bearer|basic)\s+)?[^\s,;'\"}]+)"
)
_PATH_KEYS = re.compile(r"(?i)(password_file|headers_file|remote_password_file|passwordfile)")
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----", re.DOTALL)


class Redactor:
    """Takes secrets out of text.

    Args:
        secrets: values that must not appear, whatever stands around them.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 4}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """Return text without secrets."""
        for secret in self._secrets:
            text = text.replace(secret, REMOVED)
        text = _PEM.sub(REMOVED, text)
        text = _URL_LOGIN.sub(rf"\1{REMOVED}@", text)
        text = _URL_PATH.sub(lambda url: url[1] + _path(url[2]), text)
        text = _URL_QUERY.sub(rf"\1{REMOVED}", text)
        return "\n".join(
            line if _PATH_KEYS.search(line) else _NAMED.sub(rf"\1{REMOVED}", line) for line in text.split("\n")
        )

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"


def _path(path: str) -> str:
    """Return a URL's path with its folders removed, which carry tokens of users; a short name of a file stays."""
    *folders, name = path.split("/")
    kept = name if _PLAIN_NAME.fullmatch(name) else REMOVED + Path(name).suffix[:6]
    return f"{REMOVED}/{kept}" if folders else kept


def secrets_of(config: schema.Settings) -> list[str]:
    """Return every secret that the configuration's files hold, whole and line by line, and tokens in streams' paths."""
    held = [config.broker.password_file, config.dashboard.password_file]
    held += [stream.headers_file for stream in config.streams]
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory:
        held += list(Path(directory).iterdir())
    held += sorted(Path("/etc/genre-edge/broker/passwords").glob("*"))
    parts = [part for stream in config.streams for part in urlsplit(stream.url).path.split("/")]
    found = [part for part in parts if _LIKE_A_TOKEN.fullmatch(Path(part).stem)]
    found += [Path(part).stem for part in found]
    for file in held:
        try:
            text = file.read_text(encoding="utf-8", errors="replace") if file is not None else ""
        except OSError:
            continue
        for line in text.splitlines():
            value = line.partition(":")[2] if re.match(r"^[A-Za-z-]+:\s", line) else line
            found += [line.strip(), value.strip(), *value.split()[-1:]]
    return found


def up_folder() -> Path | None:
    """Return the newest folder of `genre up` that it left, or runs in, without --folder."""
    mine = (each for each in Path(tempfile.gettempdir()).glob("genre-up-*/logs") if each.stat().st_uid == os.geteuid())
    newest = max(mine, key=lambda each: each.stat().st_mtime, default=None)
    return newest.parent if newest else None


def contents(path: Path | None, folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file of the bundle, not yet redacted.

    Args:
        folder: of `genre up`, whose logs go along.
    """
    yield "about.txt", _about()
    yield "packages.txt", "".join(sorted(f"{d.metadata['Name']}=={d.version}\n" for d in metadata.distributions()))
    given = path or (Path(os.environ["GENRE_CONFIG"]) if os.environ.get("GENRE_CONFIG") else None)
    if given is not None:
        yield "configuration.toml", _text(given)
    overrides = {name: value for name, value in os.environ.items() if name.startswith("GENRE_")}
    yield "environment.txt", "".join(f"{name}={value}\n" for name, value in sorted(overrides.items()))
    yield "doctor.jsonl", "".join(json.dumps(dataclasses.asdict(finding)) + "\n" for finding in diagnose(path))
    for name in ("/etc/genre-edge/mosquitto.conf", "/etc/genre-edge/broker/mosquitto.conf", "/etc/nv_tegra_release"):
        if Path(name).exists():
            yield f"system{name}", _text(Path(name))
    logs = sorted((folder / "logs").glob("*")) if folder is not None else []
    for log in [each for each in logs if each.is_file()][:MOST_LOGS]:
        yield f"up/{log.name}", _text(log)
    units = "genre-*"
    for name, command in {
        "units.txt": ["systemctl", "--no-pager", "status", units, "mosquitto"],
        "journal.txt": ["journalctl", "--no-pager", "-n", "5000", "-o", "short-iso", "-u", units, "-u", "mosquitto"],
        "memory.txt": ["free", "-m"],
        "disks.txt": ["df", "-h"],
        "sockets.txt": ["ss", "-ltn"],
        "power.txt": ["nvpmodel", "-q"],
    }.items():
        yield name, _output(command)


def write(out: Path, path: Path | None, folder: Path | None = None) -> Path:
    """Write the bundle, readable by its owner alone, whatever was there before.

    Raises:
        UsageError: a given path or folder is not there. GenreError: the bundle can't be written.
    """
    if folder is not None and not (folder / "logs").is_dir():
        raise UsageError(str(folder), "is no folder of 'genre up' (no logs in it)", "give --folder as to 'genre up'")
    if path is not None and not path.exists():
        raise UsageError(str(path), "is not there", "give --config the file that the services read, or leave it away")
    try:
        redact = Redactor(secrets_of(loading.load(path)))
    except GenreError:
        redact = Redactor([])  # a broken configuration is what the bundle is for
    try:
        with files.replacing(out, mode=0o600) as new, tarfile.open(new, mode="w:gz") as archive:
            for name, text in contents(path, folder):
                data = redact(text).encode("utf-8", errors="replace")[-LARGEST:]
                entry = tarfile.TarInfo(f"genre-support/{name.lstrip('/')}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise GenreError(str(out), f"can't be written ({error.strerror})", "give --out another path") from error
    return out


def _about() -> str:
    from services.process.lifecycle import product_version

    words = (f"genre-edge {product_version()}", f"Python {sys.version}", platform.platform(), f"{os.cpu_count()} CPUs")
    release = _text(Path("/etc/os-release"))
    return "\n".join([*words, f"glibc {' '.join(platform.libc_ver())}", _output(["mosquitto", "-h"])[:200], release])


def _text(path: Path) -> str:
    """Return a file's text, of a long one the end."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LARGEST))
            return file.read(LARGEST).decode("utf-8", errors="replace")
    except OSError as error:
        return f"({error})\n"


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({error})\n"
    return (done.stdout + done.stderr).decode("utf-8", errors="replace")


@click.command("support-bundle")
@click.option("--config", "path", type=click.Path(path_type=Path), help="TOML configuration file.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder of 'genre up' whose logs go along.  [default: the newest temporary one]",
)
@click.option("--out", type=click.Path(path_type=Path), help="Archive to write.  [default: genre-support-TIME.tar.gz]")
def support_bundle(path: Path | None, folder: Path | None, out: Path | None) -> None:
    """Collect what a maintainer needs into one archive; secrets are removed.

    \b
    Example: sudo genre support-bundle --out support.tar.gz
    """
    out = out or Path(f"genre-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    click.echo(f"{write(out, path, folder or up_folder())}: look through it before you send it")
