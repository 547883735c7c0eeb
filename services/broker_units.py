"""`genre broker apply`: let the systemd services of this machine, and Mosquitto's, use what `genre broker init` made.

Drop-ins only, so that an upgrade of the package changes nothing of it. Passwords go by LoadCredential; systemd before
247 (JetPack 4.6) ignores that, so each password file also belongs to its service's account. Start at `drop_ins`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from services.errors import GenreError
from services.systemctl import systemctl

UNITS = {
    "fetcher": "genre-fetcher.service",
    "featurizer": "genre-featurizer@.service",
    "inference": "genre-inference@.service",
    "dashboard": "genre-dashboard.service",
}


def drop_ins(folder: Path, host: str, port: int) -> Mapping[str, str]:
    """Return the drop-in of each unit: relative path below /etc/systemd/system, and text.

    Args:
        folder: of `genre broker init`.
        host: name or address that the certificate is for.
        port: of MQTT over TLS.
    """
    texts = {}
    for name, unit in UNITS.items():
        secret = folder / "passwords" / name
        texts[f"{unit}.d/broker.conf"] = (
            "# Made by 'genre broker apply'. Before systemd 247 LoadCredential is ignored, and the file is read.\n"
            f"[Service]\nLoadCredential={name}:{secret}\n"
            f"Environment=GENRE_BROKER__HOST={host} GENRE_BROKER__PORT={port}\n"
            f"Environment=GENRE_BROKER__CA_FILE={folder / 'ca.crt'}\n"
            f"Environment=GENRE_BROKER__USERNAME={name} GENRE_BROKER__PASSWORD_FILE={secret}\n"
        )
    texts["mosquitto.service.d/genre-network.conf"] = (
        "# Made by 'genre broker apply'.\n[Service]\nExecStart=\n"
        f"ExecStart=/usr/sbin/mosquitto -c {folder / 'mosquitto.conf'}\n"
    )
    return texts


def login_env(folder: Path, host: str, port: int) -> str:
    """Return the environment in which `genre doctor` logs in as the fetcher; no secret is in it."""
    values = {"HOST": host, "PORT": port, "CA_FILE": folder / "ca.crt", "USERNAME": "fetcher"}
    values["PASSWORD_FILE"] = folder / "passwords" / "fetcher"
    return "".join(f"GENRE_BROKER__{name}={value}\n" for name, value in values.items())


def apply(folder: Path, host: str, port: int, units: Path) -> None:
    """Write the drop-ins, hand the passwords to their services, and restart what runs.

    Raises:
        GenreError: systemctl failed.
        OSError: units can't be written.
    """
    for name, text in drop_ins(folder, host, port).items():
        path = units / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # What a person's own commands use: /usr/bin/genre reads it when root calls.
    login = folder / "login.env"
    login.touch(mode=0o600)
    login.write_text(login_env(folder, host, port), encoding="utf-8")
    (folder / "passwords").chmod(0o711)
    for name in UNITS:
        secret = folder / "passwords" / name
        secret.chmod(0o400)
        with contextlib.suppress(LookupError):
            shutil.chown(secret, f"genre-{name}", "root")
    systemctl("daemon-reload")
    systemctl("restart", "mosquitto.service")
    systemctl(
        "try-restart", "genre-fetcher.service", "genre-dashboard.service", "genre-featurizer@*", "genre-inference@*"
    )


def undo(folder: Path, units: Path) -> None:
    """Take the drop-ins away again and restart what runs.

    Raises:
        GenreError: there are none.
    """
    found = [units / name for name in drop_ins(Path("/"), "", 0) if (units / name).exists()]
    if not found:
        raise GenreError(str(units), "holds no drop-ins of 'genre broker apply'", "nothing is to be undone")
    for path in found:
        path.unlink()
    (folder / "login.env").unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("restart", "mosquitto.service")
    systemctl(
        "try-restart", "genre-fetcher.service", "genre-dashboard.service", "genre-featurizer@*", "genre-inference@*"
    )
