"""`genre broker`: users, passwords, certificates and configuration of a broker that others on the network may reach.

Files only; it never talks to a broker and never shows a password. What the files say is made by `broker_config.py` and
`broker_access.py`. Start at `set_up`; everything lies in one folder, by default /etc/genre-edge/broker.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

import click

from services import broker_access, broker_certificates, broker_units
from services.broker_access import ROLES
from services.broker_config import access_lists, dynamic_security, lan_config
from services.broker_files import write, writing
from services.broker_fleet_command import bridge, fleet
from services.errors import GenreError, UsageError

FOLDER = Path("/etc/genre-edge/broker")
SYSTEMD = Path("/etc/systemd/system")
SERVICES = ("fetcher", "featurizer", "inference", "dashboard")
PLUGIN_PLACES = (
    "usr/lib/*/mosquitto_dynamic_security.so",
    "usr/lib/mosquitto_dynamic_security.so",
    "usr/local/lib/mosquitto_dynamic_security.so",
)
_USER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_HOST = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")
in_folder = click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Where it all lies."
)


@click.group()
def broker() -> None:
    """Users, passwords and certificates of the MQTT broker.

    \b
    Example: genre broker init --host jetson.local && genre broker user kitchen --role viewer
    """


@broker.command()
@in_folder
@click.option("--host", "hosts", multiple=True, required=True, help="Name or address that clients use; repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="MQTT over TLS.")
@click.option(
    "--websockets-port", type=click.IntRange(1, 65535), help="Also MQTT over secure WebSockets, for browsers."
)
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("/run/genre-broker"),
    show_default=True,
    help="Where the broker keeps sessions.",
)
@click.option(
    "--mosquitto-1.6", "old", is_flag=True, help="For Mosquitto 1.6 (Ubuntu 20.04): access lists instead of roles."
)
def init(folder: Path, hosts: tuple[str, ...], port: int, websockets_port: int | None, state: Path, old: bool) -> None:
    """Make a CA, a server certificate, a user for each service, and mosquitto.conf; keeps what is there.

    \b
    Example: genre broker init --host jetson.local --host 192.168.1.20
    """
    for host in hosts:
        if not _HOST.match(host):
            raise UsageError("--host", f"{host!r} is no host name or address", "give the name that clients connect to")
    with writing(folder):
        set_up(folder, list(hosts), port, websockets_port, state, old)
    click.echo(f"{folder}/mosquitto.conf     give it to mosquitto -c, or include it from /etc/mosquitto/conf.d")
    click.echo(f"{folder}/ca.crt             copy it to every client (broker.ca_file)")
    click.echo(f"{folder}/passwords/NAME     one file for each service (broker.password_file)")


def set_up(folder: Path, hosts: list[str], port: int, websockets_port: int | None, state: Path, old: bool) -> None:
    """Write everything that is missing into folder; the server certificate and mosquitto.conf are always new.

    Raises:
        GenreError: Mosquitto's dynamic security plugin is not on this machine.
        OSError: folder can't be written.
    """
    folder = folder.absolute()
    plugin = next((str(path) for place in PLUGIN_PLACES for path in sorted(Path("/").glob(place))), None)
    if plugin is None and not old:
        raise GenreError(
            "Mosquitto", "has no dynamic security plugin here", "install mosquitto 2.0 or later, or use --mosquitto-1.6"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ca.key").exists():
        key = broker_certificates.new_key()
        write(folder / "ca.crt", broker_certificates.authority(key), 0o644)
        write(folder / "ca.key", key, 0o600)
    certify(folder, hosts)
    if old:
        (folder / "access.txt").touch()
        write(folder / "passwords.txt", _read(folder / "passwords.txt"), 0o600, for_broker=True)
        security = access_lists(folder / "passwords.txt", folder / "access.txt")
    else:
        security = dynamic_security(plugin or "", folder / "dynamic-security.json")
    clients = _clients(folder)
    for name in SERVICES:
        if not any(client["username"] == name for client in clients):
            clients = _with_user(folder, clients, name, name, secrets.token_urlsafe(24))
    _save(folder, clients)
    text = lan_config(folder, security, state, port, websockets_port=websockets_port)
    write(folder / "mosquitto.conf", text.encode(), 0o644)


def certify(folder: Path, hosts: list[str]) -> None:
    """Make a new key and certificate for the broker, signed by the CA in folder."""
    key = broker_certificates.new_key()
    certificate = broker_certificates.server_certificate(
        (folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes(), key, hosts
    )
    write(folder / "server.crt", certificate, 0o644)
    write(folder / "server.key", key, 0o600, for_broker=True)


@broker.command()
@in_folder
@click.argument("name")
@click.option(
    "--role", type=click.Choice(list(ROLES)), default="viewer", show_default=True, help="What the user may do."
)
@click.option(
    "--password-file", type=click.File("r"), help="Take the password from here ('-' is stdin); else a random one."
)
def user(folder: Path, name: str, role: str, password_file: Any) -> None:
    """Add a user, or give one a new password or role; restart the broker afterwards.

    \b
    Example: genre broker user kitchen --role viewer
    """
    if not _USER.match(name):
        raise UsageError("NAME", f"{name!r} is no user name", "letters, digits, '_', '.', '-'; at most 64")
    password = password_file.readline().rstrip("\r\n") if password_file else secrets.token_urlsafe(24)
    if len(password) < 12:
        raise UsageError(
            "--password-file",
            "holds a password of less than 12 characters",
            "choose a longer one, or leave it to this command",
        )
    _made(folder)
    with writing(folder):
        _save(folder, _with_user(folder, _clients(folder), name, role, password))
    click.echo(f"user {name}, role {role}: password in {folder}/passwords/{name}; restart the broker")


@broker.command()
@in_folder
@click.argument("name")
def remove(folder: Path, name: str) -> None:
    """Take a user away; restart the broker afterwards, which also ends the user's connections.

    \b
    Example: genre broker remove kitchen
    """
    _made(folder)
    clients = _clients(folder)
    if not any(client["username"] == name for client in clients):
        raise UsageError(
            "NAME", f"there is no user {name!r}", f"known: {', '.join(sorted(c['username'] for c in clients))}"
        )
    with writing(folder):
        _forget_line(folder, name)
        _save(folder, [client for client in clients if client["username"] != name])
        (folder / "passwords" / name).unlink(missing_ok=True)
    click.echo(f"user {name} is gone; restart the broker")


@broker.command()
@in_folder
@click.option(
    "--host", "hosts", multiple=True, help="Name or address that clients use.  [default: those of the old one]"
)
def renew(folder: Path, hosts: tuple[str, ...]) -> None:
    """Make a new server certificate from the same CA; clients need nothing. Restart the broker afterwards.

    \b
    Example: genre broker renew
    """
    _made(folder)
    with writing(folder):
        certify(folder, list(hosts) or broker_certificates.hosts_of((folder / "server.crt").read_bytes()))
    click.echo(f"{folder}/server.crt is new; restart the broker")


@broker.command()
@in_folder
@click.option("--host", help="Name or address the services use.  [default: the first in the certificate]")
@click.option("--undo", is_flag=True, help="Back to the local broker without passwords.")
def apply(folder: Path, host: str | None, undo: bool) -> None:
    """Let Mosquitto and the services that systemd runs here use this set-up.

    \b
    Example: sudo genre broker init --host jetson.local && sudo genre broker apply
    """
    if undo:
        with writing(SYSTEMD):
            broker_units.undo(folder, SYSTEMD)
        return
    _made(folder)
    folder = folder.absolute()
    port = re.search(r"^listener (\d+)", (folder / "mosquitto.conf").read_text(encoding="utf-8"), re.MULTILINE)
    if port is None:
        raise GenreError(str(folder / "mosquitto.conf"), "has no listener", "run 'genre broker init' again")
    with writing(SYSTEMD):
        name = host or broker_certificates.hosts_of((folder / "server.crt").read_bytes())[0]
        broker_units.apply(folder, name, int(port[1]), SYSTEMD)
    click.echo(f"mosquitto and the services use {name}:{port[1]} now")


@broker.command()
def roles() -> None:
    """Show what each role may do.

    \b
    Example: genre broker roles
    """
    for name, role in ROLES.items():
        click.echo(f"{name}: {role.about}")
        for verb, topics in (("writes", role.writes), ("reads", role.reads), ("shares", role.joins)):
            if topics:
                click.echo(f"  {verb:7}{', '.join(topics)}")


# --- files -----------------------------------------------------------------------------------------------------------


def _made(folder: Path) -> None:
    if not (folder / "dynamic-security.json").exists():
        raise UsageError(
            str(folder), "holds no broker set-up", "run 'genre broker init --host NAME' first, or give --folder"
        )


def _clients(folder: Path) -> list[dict[str, Any]]:
    """Return the users; dynamic-security.json is their one register, whatever form the broker reads."""
    path = folder / "dynamic-security.json"
    if not path.exists():
        return []
    try:
        clients: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["clients"]
        return clients
    except (ValueError, KeyError, TypeError) as error:
        raise GenreError(
            str(path), f"is damaged ({error})", "restore it, or remove it and run 'genre broker init' again"
        ) from error


def _with_user(
    folder: Path, clients: list[dict[str, Any]], name: str, role: str, password: str
) -> list[dict[str, Any]]:
    passwords = folder / "passwords"
    passwords.mkdir(mode=0o750, exist_ok=True)
    write(passwords / name, password.encode() + b"\n", 0o600)
    if (folder / "access.txt").exists():
        _forget_line(folder, name)
        lines = _read(folder / "passwords.txt") + broker_access.password_line(name, password).encode()
        write(folder / "passwords.txt", lines, 0o600, for_broker=True)
    others = [client for client in clients if client["username"] != name]
    return [*others, broker_access.client_entry(name, password, role)]


def _save(folder: Path, clients: list[dict[str, Any]]) -> None:
    text = broker_access.dynamic_security_json(clients)
    write(folder / "dynamic-security.json", text.encode(), 0o600, for_broker=True)
    if (folder / "access.txt").exists():
        users = {client["username"]: client["roles"][0]["rolename"] for client in clients}
        write(folder / "access.txt", broker_access.access_list(users).encode(), 0o600, for_broker=True)


def _forget_line(folder: Path, name: str) -> None:
    path = folder / "passwords.txt"
    if path.exists():
        kept = [line for line in _read(path).splitlines(keepends=True) if not line.startswith(name.encode() + b":")]
        write(path, b"".join(kept), 0o600, for_broker=True)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


broker.add_command(bridge)
broker.add_command(fleet)
