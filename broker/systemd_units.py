"""`genre broker apply`: let the systemd services of this machine, and Mosquitto's, use what `genre broker init` made.

Drop-ins only, so that an upgrade of the package changes nothing of it. Passwords go by LoadCredential; systemd before
247 (JetPack 4.6) ignores that, so each password file also belongs to its service's account. Start at `drop_ins`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from broker.access import DISCOVERY
from services.errors import GenreError
from services.process.systemctl import systemctl

UNITS = {
    "fetcher": "genre-fetcher.service",
    "featurizer": "genre-featurizer@.service",
    "inference": "genre-inference@.service",
    "dashboard": "genre-dashboard.service",
}


def drop_ins(folder: Path, host: str, port: int, root: str = "genre", discovery: str = DISCOVERY) -> Mapping[str, str]:
    """Return the drop-in of each unit: relative path below /etc/systemd/system, and text.

    Args:
        folder: of `genre broker init`.
        host: name or address that the certificate is for.
        port: of MQTT over TLS.
        root: first level or levels of every topic.
        discovery: Home Assistant's discovery prefix.
    """
    texts = {}
    for name, unit in UNITS.items():
        secret = folder / "passwords" / name
        certificate, key = folder / "clients" / f"{name}.crt", folder / "clients" / f"{name}.key"
        shown = (
            f"LoadCredential={key.name}:{key}\n"
            f"Environment=GENRE_BROKER__CERTIFICATE_FILE={certificate} GENRE_BROKER__KEY_FILE={key}\n"
            if key.exists()
            else ""
        )
        if name == "dashboard" and discovery != DISCOVERY:
            shown += f"Environment=GENRE_DASHBOARD__HOME_ASSISTANT_PREFIX={discovery}\n"
        texts[f"{unit}.d/broker.conf"] = (
            "# Made by 'genre broker apply'. Before systemd 247 LoadCredential is ignored, and the file is read.\n"
            f"[Service]\nLoadCredential={name}:{secret}\n"
            f"Environment=GENRE_BROKER__HOST={host} GENRE_BROKER__PORT={port} GENRE_BROKER__ROOT={root}\n"
            f"Environment=GENRE_BROKER__CA_FILE={folder / 'ca.crt'}\n"
            f"Environment=GENRE_BROKER__USERNAME={name} GENRE_BROKER__PASSWORD_FILE={secret}\n{shown}"
        )
    texts["mosquitto.service.d/genre-network.conf"] = (
        "# Made by 'genre broker apply'.\n[Service]\nExecStart=\n"
        f"ExecStart=/usr/sbin/mosquitto -c {folder / 'mosquitto.conf'}\n"
    )
    return texts


def login_env(folder: Path, host: str, port: int, root: str = "genre") -> str:
    """Return the environment in which `genre doctor` logs in as the fetcher; no secret is in it."""
    values = {"HOST": host, "PORT": port, "ROOT": root, "CA_FILE": folder / "ca.crt", "USERNAME": "fetcher"}
    if (folder / "clients" / "fetcher.key").exists():
        values["CERTIFICATE_FILE"] = folder / "clients" / "fetcher.crt"
        values["KEY_FILE"] = folder / "clients" / "fetcher.key"
    values["PASSWORD_FILE"] = folder / "passwords" / "fetcher"
    return "".join(f"GENRE_BROKER__{name}={value}\n" for name, value in values.items())


def apply(folder: Path, host: str, port: int, root: str, discovery: str, units: Path) -> None:
    """Write the drop-ins, hand the passwords to their services, and restart what runs.

    Raises:
        GenreError: systemctl failed.
        OSError: units can't be written.
    """
    for name, text in drop_ins(folder, host, port, root, discovery).items():
        path = units / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    # What a person's own commands use: /usr/bin/genre reads it when root calls.
    login = folder / "login.env"
    login.touch(mode=0o600)
    login.write_text(login_env(folder, host, port, root), encoding="utf-8")
    for name in UNITS:
        for secret in (folder / "passwords" / name, folder / "clients" / f"{name}.key"):
            if not secret.exists():
                continue
            secret.parent.chmod(0o711)
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
        raise GenreError(str(units), "holds no drop-ins of 'genre broker apply'", "there is nothing to undo")
    for path in found:
        path.unlink()
    (folder / "login.env").unlink(missing_ok=True)
    systemctl("daemon-reload")
    systemctl("restart", "mosquitto.service")
    systemctl(
        "try-restart", "genre-fetcher.service", "genre-dashboard.service", "genre-featurizer@*", "genre-inference@*"
    )
