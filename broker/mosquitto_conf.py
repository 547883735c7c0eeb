"""The text of every mosquitto.conf: what `genre up` starts, what the package installs, what broker/ shows.

Pure functions of values; nothing is read or written. broker/conf/*.conf are made from here and a test compares them.
Start at `local_config`; users and certificates are made by `access.py` and `command.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from services.monitor import fleet

LIMITS = """\
# A denied or oversize PUBLISH gets reason code 135 or 149; every payload of genre-edge stays under 1,000,000 bytes.
max_packet_size 2000000
# Overflow is silent and keeps the oldest, so the queues must never fill: the fetcher's credits (at most 10,000
# chunks) are the flow control. 0 (no limit) is broken in 2.0.16.
max_queued_messages 12000
max_inflight_messages 100
# Keep no session of a client that has been gone for a day.
persistent_client_expiration 1d
set_tcp_nodelay true
sys_interval 10
log_dest stderr
log_type error
log_type warning
log_type notice
"""
"""What all configurations share. No per_listener_settings: it loses wills before 2.0.13. No message expiry on queued
topics: expired messages stall a queue before 2.0.15."""


SENT = ("results", "events", "status/#", "streams/+/now", "streams/+/ledger")
"""What goes upstream, below the root. Not the flat twins, which repeat results; never audio, features or acks."""
BOX_QUEUE = 100_000
"""Messages that wait for the uplink: hours of one stream (docs/fleet.md)."""


def persistence_config(folder: Path, user: str | None = None) -> str:
    """Return the lines that let sessions and queues survive a crash of the broker.

    Args:
        folder: an existing folder that the broker may write to. On flash storage choose one on tmpfs: the whole store,
            audio in flight included, is written every second, and losing it at a power cut costs no result.
        user: account that mosquitto takes on when started as root; None leaves its default, "mosquitto".
    """
    return f"persistence true\npersistence_location {folder}/\nautosave_interval 1\n{_account(user)}"


def _account(user: str | None) -> str:
    return f"user {user}\n" if user else ""


def local_config(port: int, folder: Path, persistence: bool = False, user: str | None = None) -> str:
    """Return the configuration for one machine: loopback only, anonymous, nobody else can reach it.

    Args:
        port: to listen on.
        folder: where sessions and queues are kept, if they are.
        persistence: keep them. The end-to-end acks need no such help; durable subscribers of results gain by it.
        user: see `persistence_config`.
    """
    kept = persistence_config(folder, user) if persistence else "persistence false\n" + _account(user)
    return f"listener {port} 127.0.0.1\nallow_anonymous true\nconnection_messages false\n{kept}{LIMITS}"


def tls_lines(certificates: Path, client_certificates: bool = False) -> str:
    """Return the lines that make the listener before them speak TLS 1.2 or later.

    Args:
        certificates: folder with server.crt, server.key and ca.crt.
        client_certificates: let in only who shows a certificate of the same CA; passwords and roles hold besides.
    """
    asked = f"cafile {certificates}/ca.crt\nrequire_certificate true\n" if client_certificates else ""
    return asked + (
        f"certfile {certificates}/server.crt\n"
        f"keyfile {certificates}/server.key\n"
        f"tls_version tlsv1.2\n"
        "ciphers ECDHE+AESGCM:ECDHE+CHACHA20\n"
    )


def lan_config(
    certificates: Path,
    security: str,
    state: Path,
    port: int = 8883,
    host: str = "",
    websockets_port: int | None = None,
    client_certificates: bool = False,
) -> str:
    """Return the configuration for a network: TLS, a password and a role for everyone.

    Args:
        certificates: folder with server.crt and server.key.
        security: `dynamic_security` or `access_lists`: who may do what.
        state: see `persistence_config`.
        port: of MQTT over TLS.
        host: address to listen on; "" is all.
        websockets_port: also MQTT over secure WebSockets, for browsers.
        client_certificates: see `tls_lines`.
    """
    tls = tls_lines(certificates, client_certificates)
    text = f"allow_anonymous false\n{security}{persistence_config(state)}{LIMITS}"
    text += f"\nlistener {port} {host}".rstrip() + f"\n{tls}"
    if websockets_port is not None:
        text += f"\nlistener {websockets_port} {host}".rstrip() + f"\nprotocol websockets\n{tls}"
    return text


def dynamic_security(plugin: str, users: Path) -> str:
    """Return the lines for Mosquitto 2.0 and later, where even subscribing (joining a work group) needs a right.

    Args:
        plugin: path of mosquitto_dynamic_security.so.
        users: dynamic-security.json, readable and writable by the broker alone.
    """
    return f"plugin {plugin}\nplugin_opt_config_file {users}\n"


def access_lists(passwords: Path, access: Path) -> str:
    """Return the lines for Mosquitto 1.6 (JetPack 5's Ubuntu 20.04), which has no dynamic security.

    There a SUBSCRIBE always succeeds and only delivery is checked: a user with a password could join a work group
    and swallow its share until the fetcher sends it again. Use 2.0 where users are not all trusted.
    """
    return f"password_file {passwords}\nacl_file {access}\n"


def bridge_config(
    box: str,
    address: str,
    password: str,
    ca_file: Path,
    topic_root: str = "genre",
    queue: int = BOX_QUEUE,
    prefix: str | None = None,
) -> str:
    """Return the lines that send results, events and status to an upstream broker, and never audio.

    Nothing comes down, so nothing can go round. What the uplink can't take now waits here, in order.

    Args:
        box: name of this box: its user, its client id and its level upstream.
        address: host:port of the upstream broker, which must speak TLS and MQTT 5.
        password: of the box upstream; the file must be readable by the broker alone.
        ca_file: CA that signed the upstream broker's certificate.
        topic_root: broker.root of the configuration.
        queue: most messages that wait while the uplink is down; beyond it the newest are dropped.
        prefix: put before every topic upstream; None is the box's own level of a fleet.
    """
    prefix = f"{fleet.LEVEL}/{box}/" if prefix is None else prefix
    topics = "".join(f"topic {topic} out 1 {topic_root}/ {prefix}{topic_root}/\n" for topic in SENT)
    return (
        f"connection {box}\naddress {address}\n"
        "# MQTT 5 carries user properties on; the sessions last over a cut, so that nothing is missed.\n"
        f"bridge_protocol_version mqttv50\ncleansession false\nremote_clientid {box}\nlocal_clientid bridge-{box}\n"
        f"remote_username {box}\nremote_password {password}\nbridge_cafile {ca_file}\n"
        "# Retained upstream: 1 while this bridge is connected, else 0, which its will says.\n"
        f"notifications true\nnotification_topic {fleet.link(box)}\n"
        "# A cut is noticed after 1.5 keep-alives; boxes come back spread over 2 to 30 s, not all at once.\n"
        "keepalive_interval 20\nrestart_timeout 2 30\ntry_private false\n"
        "# What waits for the uplink; it counts for every client of this broker, far above the fetcher's credits.\n"
        f"max_queued_messages {queue}\n"
        f"{topics}"
    )


def ready_to_copy() -> Mapping[str, str]:
    """Return the files of broker/: name and text."""
    etc, run = Path("/etc/genre-edge/broker"), Path("/run/genre-broker")
    plugin = dynamic_security("/usr/lib/aarch64-linux-gnu/mosquitto_dynamic_security.so", etc / "dynamic-security.json")
    old = access_lists(etc / "passwords.txt", etc / "access.txt")
    return {
        "local.conf": _head("One machine: loopback, no passwords. What `genre up` runs.")
        + local_config(1883, run, True),
        "lan.conf": _head("A network: TLS, passwords, roles. `genre broker init --host NAME` makes it and its files.")
        + lan_config(etc, plugin, run),
        "lan-1.6.conf": _head("The same for Mosquitto 1.6: `genre broker init --host NAME --mosquitto-1.6`.")
        + lan_config(etc, old, run),
        "websockets.conf": _head("As lan.conf, and browsers: `genre broker init --host NAME --websockets-port 9443`.")
        + lan_config(etc, plugin, run, websockets_port=9443),
        "bridge.conf": _head("Added to one of the others by `genre broker bridge`: results and status go upstream.")
        + bridge_config("edge-7", "upstream.example:8883", "CHANGE-ME", etc / "upstream-ca.crt"),
    }


def _head(text: str) -> str:
    return f"# {text}\n# Made by broker/mosquitto_conf.py; where to start: broker/README.md\n\n"


if __name__ == "__main__":
    for name, text in ready_to_copy().items():
        Path(sys.argv[1], name).write_text(text, encoding="utf-8")
