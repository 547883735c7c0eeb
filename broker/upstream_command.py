"""`genre broker bridge` on a box, `genre broker fleet ...` on the broker upstream of all boxes: files only.

What they say is made by `upstream_conf.py`. A box's password is random and long, so one round of SHA-512 guards it as
well as thousands do: a fleet that reconnects at once costs the broker no time. Start at `fleet` and `bridge`.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

import click

from broker import certificates, upstream_conf
from broker.access import password_line
from broker.files import write, writing
from broker.mosquitto_conf import BOX_QUEUE, bridge_config
from services.errors import GenreError, UsageError

FOLDER = Path("/etc/genre-edge/fleet")
CONF = Path("/etc/genre-edge/mosquitto.conf")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
_ADDRESS = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?:(\d{1,5})$")
in_folder = click.option(
    "--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Where it all lies."
)


@click.command()
@click.option("--box", required=True, help="Name of this box, as the upstream broker knows it.")
@click.option("--upstream", required=True, metavar="HOST:PORT", help="The upstream broker: TLS and MQTT 5.")
@click.option("--password-file", type=click.Path(path_type=Path), required=True, help="The box's password upstream.")
@click.option("--ca-file", type=click.Path(path_type=Path), required=True, help="The upstream broker's ca.crt.")
@click.option("--conf", type=click.Path(path_type=Path), default=CONF, show_default=True, help="This box's broker's.")
@click.option("--root", default="genre", show_default=True, help="broker.root of this box.")
@click.option(
    "--queue", type=click.IntRange(12_000, 5_000_000), default=BOX_QUEUE, show_default=True,
    help="Messages that wait here while the uplink is down.",
)  # fmt: skip
def bridge(box: str, upstream: str, password_file: Path, ca_file: Path, conf: Path, root: str, queue: int) -> None:
    """Send this box's results and status to an upstream broker; restart Mosquitto afterwards.

    \b
    Example: sudo genre broker bridge --box edge-7 --upstream hub.example:8883 --password-file edge-7 --ca-file ca.crt
    """
    _check_name("--box", box)
    _check_name("--root", root)
    found = _ADDRESS.fullmatch(upstream)
    if not found or not 1 <= int(found[2]) <= 65_535:
        raise UsageError(f"--upstream {upstream}", "is no HOST:PORT", "write e.g. hub.example:8883")
    password = _text(password_file).strip()
    if not password or len(password.split()) > 1:
        raise UsageError(str(password_file), "holds no password", "copy passwords/NAME from the upstream broker")
    if "BEGIN CERTIFICATE" not in _text(ca_file):
        raise UsageError(str(ca_file), "is no certificate", "copy ca.crt from the upstream broker")
    text = bridge_config(box, upstream, password, ca_file.absolute(), root, queue)
    folder = conf.absolute().parent / "bridge.d"
    line = f"include_dir {folder}\n"
    before = _text(conf)
    with writing(conf):
        folder.mkdir(mode=0o750, exist_ok=True)
        write(folder / "bridge.conf", text.encode(), 0o600, for_broker=True)
        if line not in before:
            write(conf, (before.rstrip("\n") + "\n" + line).encode(), 0o644)
    click.echo(f"{box} will send to {upstream}: restart Mosquitto ({folder}/bridge.conf, included from {conf})")


@click.group()
def fleet() -> None:
    """The broker upstream of all boxes.

    \b
    Example: genre broker fleet init --host hub.example && genre broker fleet box edge-1 edge-2
    """


@fleet.command()
@in_folder
@click.option("--host", "hosts", multiple=True, required=True, help="Name or address that boxes use; repeatable.")
@click.option("--port", type=click.IntRange(1, 65535), default=8883, show_default=True, help="MQTT over TLS.")
@click.option(
    "--state", type=click.Path(path_type=Path), default=Path("/var/lib/mosquitto"), show_default=True,
    help="Where the broker keeps sessions and retained messages.",
)  # fmt: skip
def init(folder: Path, hosts: tuple[str, ...], port: int, state: Path) -> None:
    """Make a CA, a server certificate and mosquitto.conf for the upstream broker; keeps what is there.

    \b
    Example: genre broker fleet init --host hub.example
    """
    for host in hosts:
        if not re.fullmatch(r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$", host):
            raise UsageError("--host", f"{host!r} is no host name or address", "give the name that boxes connect to")
    folder = folder.absolute()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "ca.key").exists():
            key = certificates.new_key()
            write(folder / "ca.crt", certificates.authority(key), 0o644)
            write(folder / "ca.key", key, 0o600)
        key = certificates.new_key()
        ca, ca_key = (folder / "ca.crt").read_bytes(), (folder / "ca.key").read_bytes()
        certificate = certificates.server_certificate(ca, ca_key, key, list(hosts))
        write(folder / "server.crt", certificate, 0o644)
        write(folder / "server.key", key, 0o600, for_broker=True)
        _save(folder, _users(folder), "")
        write(folder / "mosquitto.conf", upstream_conf.upstream_config(folder, state.absolute(), port).encode(), 0o644)
    click.echo(f"{folder}/mosquitto.conf     give it to mosquitto -c")
    click.echo(f"{folder}/ca.crt             copy it to every box, with passwords/NAME")


@fleet.command("box")
@in_folder
@click.argument("names", nargs=-1, required=True)
def box_(folder: Path, names: tuple[str, ...]) -> None:
    """Add boxes, or give them new passwords; restart the broker, or send it SIGHUP, afterwards.

    \b
    Example: genre broker fleet box edge-1 edge-2 edge-3
    """
    _add(folder, names, upstream_conf.BOX)


@fleet.command()
@in_folder
@click.argument("names", nargs=-1, required=True)
def viewer(folder: Path, names: tuple[str, ...]) -> None:
    """Add users who read what all boxes send; restart the broker, or send it SIGHUP, afterwards.

    \b
    Example: genre broker fleet viewer operator
    """
    _add(folder, names, upstream_conf.VIEWER)


@fleet.command()
@in_folder
@click.argument("names", nargs=-1, required=True)
def remove(folder: Path, names: tuple[str, ...]) -> None:
    """Take boxes or viewers away; restart the broker afterwards, which also ends their connections.

    \b
    Example: genre broker fleet remove edge-2
    """
    users = _made(folder)
    for name in names:
        if name not in users:
            raise UsageError("NAME", f"there is no user {name!r}", f"{folder}/users.json lists them")
    with writing(folder):
        _save(folder, {name: role for name, role in users.items() if name not in names}, "", forget=names)
        for name in names:
            (folder / "passwords" / name).unlink(missing_ok=True)
    click.echo(f"{len(names)} gone; restart the broker")


def _add(folder: Path, names: tuple[str, ...], role: str) -> None:
    users = _made(folder)
    for name in names:
        _check_name("NAME", name)
        if users.get(name, role) != role:
            raise UsageError("NAME", f"{name!r} is a {users[name]} already", "choose another name, or remove it first")
    lines = []
    with writing(folder):
        (folder / "passwords").mkdir(mode=0o750, exist_ok=True)
        for name in names:
            password = secrets.token_urlsafe(24)
            write(folder / "passwords" / name, (password + "\n").encode(), 0o600)
            lines.append(password_line(name, password))
        _save(folder, {**users, **dict.fromkeys(names, role)}, "".join(lines), forget=names)
    click.echo(f"{len(names)} {role}: passwords in {folder}/passwords; restart the broker or send it SIGHUP")


def _check_name(option: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise UsageError(option, f"{name!r} is no name", "letters, digits, '_', '.', '-'; at most 64")


def _made(folder: Path) -> dict[str, str]:
    if not (folder / "users.json").exists():
        raise UsageError(str(folder), "holds no fleet", "run 'genre broker fleet init --host NAME' first, or --folder")
    return _users(folder)


def _users(folder: Path) -> dict[str, str]:
    path = folder / "users.json"
    if not path.exists():
        return {}
    try:
        users: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(users, dict) or not set(users.values()) <= set(upstream_conf.ROLES):
            raise ValueError("it is no table of users and roles")
    except ValueError as error:
        raise GenreError(
            str(path), f"is damaged ({error})", "restore it, or remove it and add every box again"
        ) from error
    return users


def _save(folder: Path, users: dict[str, str], added: str, forget: tuple[str, ...] = ()) -> None:
    old = (folder / "passwords.txt").read_text(encoding="utf-8") if (folder / "passwords.txt").exists() else ""
    gone = set(forget)
    kept = "".join(line for line in old.splitlines(keepends=True) if line.partition(":")[0] not in gone)
    write(folder / "passwords.txt", (kept + added).encode(), 0o600, for_broker=True)
    write(folder / "access.txt", upstream_conf.fleet_access(users).encode(), 0o600, for_broker=True)
    write(folder / "users.json", json.dumps(users, indent=0).encode(), 0o600)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(str(path), f"can't be read ({reason})", "check the path") from error
