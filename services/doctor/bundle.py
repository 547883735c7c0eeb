"""`genre support-bundle`: one archive with what a maintainer needs, and no secret in it.

Secrets are found in two ways: every value that a configured secret file holds, and every shape that carries one (user
information and queries of URLs, words like password=). Start at `Redactor`.
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
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import click

from services import settings
from services.doctor.command import diagnose
from services.errors import GenreError

REMOVED = "(removed)"
LARGEST = 5_000_000
_URL_LOGIN = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_URL_QUERY = re.compile(r"(\bhttps?://[^\s?'\"<>]+\?)[^\s'\"<>]+", re.IGNORECASE)
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
        text = _URL_QUERY.sub(rf"\1{REMOVED}", text)
        return "\n".join(
            line if _PATH_KEYS.search(line) else _NAMED.sub(rf"\1{REMOVED}", line) for line in text.split("\n")
        )

    def __repr__(self) -> str:
        return f"Redactor({len(self._secrets)} secrets)"


def secrets_of(config: settings.Settings) -> list[str]:
    """Return every secret that the configuration's files hold, whole and line by line."""
    files = [config.broker.password_file, config.dashboard.password_file]
    files += [stream.headers_file for stream in config.streams]
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory:
        files += list(Path(directory).iterdir())
    files += sorted(Path("/etc/genre-edge/broker/passwords").glob("*"))
    found: list[str] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8", errors="replace") if file is not None else ""
        except OSError:
            continue
        for line in text.splitlines():
            value = line.partition(":")[2] if re.match(r"^[A-Za-z-]+:\s", line) else line
            found += [line.strip(), value.strip(), *value.split()[-1:]]
    return found


def contents(path: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file of the bundle, not yet redacted."""
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


def write(out: Path, path: Path | None) -> Path:
    """Write the bundle, readable by its owner alone.

    Raises:
        GenreError: it can't be written.
    """
    try:
        redact = Redactor(secrets_of(settings.load(path)))
    except GenreError:
        redact = Redactor([])  # a broken configuration is what the bundle is for
    try:
        with (
            os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            tarfile.open(fileobj=file, mode="w:gz") as archive,
        ):
            for name, text in contents(path):
                data = redact(text).encode("utf-8", errors="replace")[-LARGEST:]
                entry = tarfile.TarInfo(f"genre-support/{name.lstrip('/')}")
                entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except OSError as error:
        raise GenreError(str(out), f"can't be written ({error.strerror})", "give --out another path") from error
    return out


def _about() -> str:
    from services.lifecycle import product_version

    words = (f"genre-edge {product_version()}", f"Python {sys.version}", platform.platform(), f"{os.cpu_count()} CPUs")
    release = _text(Path("/etc/os-release"))
    return "\n".join([*words, f"glibc {' '.join(platform.libc_ver())}", _output(["mosquitto", "-h"])[:200], release])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-LARGEST:]
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
@click.option("--out", type=click.Path(path_type=Path), help="Archive to write.  [default: genre-support-TIME.tar.gz]")
def support_bundle(path: Path | None, out: Path | None) -> None:
    """Collect what a maintainer needs into one archive; secrets are removed.

    \b
    Example: sudo genre support-bundle --out support.tar.gz
    """
    out = out or Path(f"genre-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    click.echo(f"{write(out, path)}: look through it before you send it")
