"""`genre broker`: users, passwords, certificates and configuration of a broker that others on the network may reach.

Files only; it never talks to a broker and never shows a password. Everything lies in one folder (folder.py), by default
/etc/genre-edge/broker. Start at `init`.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any

import click

from broker import systemd_units
from broker.access import DISCOVERY, ROLES
from broker.files import writing
from broker.folder import BrokerFolder
from broker.upstream_command import bridge, fleet
from services.errors import UsageError
from services.settings import loading
from services.settings.schema import LEVELS_PATTERN

FOLDER = Path("/etc/genre-edge/broker")
SYSTEMD = Path("/etc/systemd/system")
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
@click.option("--root", help="First level or levels of every topic.  [default: broker.root of the configuration]")
@click.option("--home-assistant-prefix", "discovery", help="Home Assistant's.  [default: that of the configuration]")
@click.option("--client-certificates", is_flag=True, help="Make a certificate for each user; let in nobody without.")
@click.option(
    "--mosquitto-1.6", "old", is_flag=True, help="For Mosquitto 1.6 (Ubuntu 20.04): access lists instead of roles."
)
def init(
    folder: Path,
    hosts: tuple[str, ...],
    port: int,
    websockets_port: int | None,
    state: Path,
    root: str | None,
    discovery: str | None,
    client_certificates: bool,
    old: bool,
) -> None:
    """Make a CA, a server certificate, a user for each service, and mosquitto.conf; keeps what is there.

    \b
    Example: genre broker init --host jetson.local --host 192.168.1.20
    """
    _check(hosts)
    for option, given in (("--root", root), ("--home-assistant-prefix", discovery)):
        if given is not None and not (re.fullmatch(LEVELS_PATTERN, given) and len(given) <= 128):
            allowed = "letters, digits, '_', '.', '-', with '/' between levels; at most 128"
            raise UsageError(option, f"{given!r} is no beginning of a topic", allowed)
    made, config = BrokerFolder(folder), loading.load()
    root = root or made.root or config.broker.root
    discovery = discovery or made.discovery or config.dashboard.home_assistant_prefix
    with writing(folder):
        made.set_up(list(hosts), port, websockets_port, state, old, root, discovery, client_certificates)
    click.echo(f"{folder}/mosquitto.conf     give it to mosquitto -c, or include it from /etc/mosquitto/conf.d")
    click.echo(f"{folder}/ca.crt             copy it to every client (broker.ca_file)")
    click.echo(f"{folder}/passwords/NAME     one file for each service (broker.password_file)")
    if made.asks_for_certificates:
        click.echo(f"{folder}/clients/NAME.crt   and NAME.key (broker.certificate_file, broker.key_file)")


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
    if not _USER.fullmatch(name):
        raise UsageError("NAME", f"{name!r} is no user name", "letters, digits, '_', '.', '-'; at most 64")
    try:
        password = password_file.readline().rstrip("\r\n") if password_file else secrets.token_urlsafe(24)
    except UnicodeDecodeError as error:
        raise UsageError("--password-file", f"is not UTF-8 ({error.reason})", "give a file of text") from error
    if len(password) < 12:
        raise UsageError(
            "--password-file",
            "holds a password of less than 12 characters",
            "choose a longer one, or leave it to this command",
        )
    made = BrokerFolder(folder)
    made.check()
    with writing(folder):
        made.add_user(name, role, password)
    click.echo(f"user {name}, role {role}: password in {folder}/passwords/{name}; restart the broker")


@broker.command()
@in_folder
@click.argument("name")
def remove(folder: Path, name: str) -> None:
    """Take a user away; restart the broker afterwards, which also ends the user's connections.

    \b
    Example: genre broker remove kitchen
    """
    made = BrokerFolder(folder)
    made.check()
    if name not in made.users:
        raise UsageError("NAME", f"there is no user {name!r}", f"known: {', '.join(sorted(made.users))}")
    with writing(folder):
        made.remove_user(name)
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
    _check(hosts)
    made = BrokerFolder(folder)
    made.check()
    with writing(folder):
        made.certify(list(hosts) or made.hosts)
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
    _check(() if host is None else (host,))
    if undo:
        with writing(SYSTEMD):
            systemd_units.undo(folder, SYSTEMD)
        return
    made = BrokerFolder(folder)
    made.check()
    port = made.port
    with writing(SYSTEMD):
        name = host or made.hosts[0]
        root, discovery = made.root or "genre", made.discovery or DISCOVERY
        systemd_units.apply(folder.absolute(), name, port, root, discovery, SYSTEMD)
    click.echo(f"mosquitto and the services use {name}:{port} now")


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


def _check(hosts: tuple[str, ...]) -> None:
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise UsageError("--host", f"{host!r} is no host name or address", "give the name that clients connect to")


broker.add_command(bridge)
broker.add_command(fleet)
