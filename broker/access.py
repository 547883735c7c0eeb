"""Who may do what on the broker: one table of roles, and the two forms in which Mosquitto can read it.

Pure functions of values. docs/security.md shows the table; tests/broker tries every cell of it with real
clients. Start at `ROLES`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ITERATIONS = 20_000
"""Of PBKDF2-SHA512: about 15 ms a connect on a Cortex-A57, so a reconnect of all services stays under a second."""


@dataclass(frozen=True)
class Role:
    """Rights of one kind of user; topics without the root.

    Attributes:
        writes: topics it may publish to.
        reads: topics it may receive.
        joins: filters of shared subscriptions, $share/<any group>/<filter>, it may take part in.
        prefixed: also under one level before the root, as a bridge with a prefix writes.
        about: one sentence for the documentation.
    """

    writes: tuple[str, ...]
    reads: tuple[str, ...]
    joins: tuple[str, ...]
    about: str
    prefixed: bool = False


PUBLIC = ("results", "events", "status/#", "streams/#", "flat/#")
DISCOVERY = "homeassistant"
"""Topics below it do not lie under the root, but under Home Assistant's discovery prefix: this one unless set."""

_DASHBOARD_WRITES = (
    "streams/+/now",
    "flat/+/+",
    "status/dashboard/+",
    "doctor/dashboard",
    "homeassistant/device/+/config",
)
_DASHBOARD_READS = (*PUBLIC, "doctor/dashboard", "homeassistant/status", "homeassistant/device/+/config")

ROLES: Mapping[str, Role] = {
    "fetcher": Role(
        ("pcm/+", "events", "dead", "streams/+/ledger", "status/fetcher/+", "doctor/fetcher"),
        ("acks/+", "status/+/+", "doctor/fetcher"),
        (),
        "listens to HLS: sends audio to the featurizers, reads the acks and who is online",
    ),
    "featurizer": Role(
        ("mel/+/+", "acks/+", "dead", "status/featurizer/+", "doctor/featurizer"),
        ("pcm/+", "status/+/+", "doctor/featurizer"),
        ("pcm/+",),
        "makes features: takes its share of the audio, reads who is online",
    ),
    "inference": Role(
        ("results", "acks/+", "dead", "status/inference/+", "doctor/inference"),
        ("mel/+/+", "status/+/+", "doctor/inference"),
        ("mel/+/+",),
        "names genres: takes its share of the features, publishes results, reads who is online",
    ),
    "dashboard": Role(
        _DASHBOARD_WRITES,
        _DASHBOARD_READS,
        (),
        "the web page: reads what viewers read, keeps the retained now and flat topics",
    ),
    "dashboard-spectrogram": Role(
        _DASHBOARD_WRITES,
        (*_DASHBOARD_READS, "mel/+/+"),
        (),
        "the same, and features: for dashboard.spectrogram, where its viewers may see that much of the audio",
    ),
    "home-assistant": Role(
        ("homeassistant/status",),
        (*PUBLIC, "homeassistant/status", "homeassistant/device/+/config"),
        (),
        "Home Assistant: what viewers read, and the announcements made for it",
    ),
    "viewer": Role((), PUBLIC, (), "people, home automation, browsers: results, events and status, nothing else"),
    "bridge": Role(PUBLIC, (), (), "another broker that sends its results and status here", prefixed=True),
    "keeper": Role((), ("dead", *PUBLIC), (), "maintenance: viewers' rights and the dead letters"),
}


def password_hash(password: str, salt: bytes, iterations: int = ITERATIONS) -> str:
    """Return the base64 of PBKDF2-HMAC-SHA512, as Mosquitto 2 stores it."""
    return base64.b64encode(hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)).decode()


def client_entry(name: str, password: str, role: str) -> dict[str, Any]:
    """Return one user of dynamic-security.json; the password itself is not in it."""
    salt = secrets.token_bytes(12)
    return {
        "username": name,
        "textname": role,
        "roles": [{"rolename": role}],
        "password": password_hash(password, salt),
        "salt": base64.b64encode(salt).decode(),
        "iterations": ITERATIONS,
    }


def dynamic_security_json(clients: list[dict[str, Any]], root: str = "genre", discovery: str = DISCOVERY) -> str:
    """Return dynamic-security.json: everything is denied but what a role allows, receiving and subscribing included.

    Nobody has rights on $CONTROL, so nobody can change it over MQTT; `genre broker` writes the file again.

    Args:
        root: first level or levels of every topic.
        discovery: Home Assistant's discovery prefix.
    """
    kinds = ("publishClientSend", "publishClientReceive", "subscribe")
    return json.dumps(
        {
            "defaultACLAccess": {**dict.fromkeys(kinds, False), "unsubscribe": True},
            "clients": clients,
            "groups": [],
            "roles": [{"rolename": name, "acls": _acls(role, root, discovery)} for name, role in ROLES.items()],
        },
        indent=1,
    )


def _full(root: str, discovery: str, topic: str) -> str:
    return discovery + topic.removeprefix(DISCOVERY) if topic.startswith(f"{DISCOVERY}/") else f"{root}/{topic}"


def _acls(role: Role, root: str, discovery: str) -> list[dict[str, Any]]:
    def allow(kind: str, topic: str) -> dict[str, Any]:
        return {"acltype": kind, "topic": topic, "priority": 0, "allow": True}

    entries = [allow("publishClientSend", _full(root, discovery, topic)) for topic in role.writes]
    if role.prefixed:
        entries += [allow("publishClientSend", f"+/{root}/{topic}") for topic in role.writes]
    entries += [allow("subscribePattern", f"$share/+/{root}/{topic}") for topic in role.joins]
    entries += [allow("publishClientReceive", _full(root, discovery, topic)) for topic in role.reads]
    entries += [allow("subscribePattern", _full(root, discovery, topic)) for topic in role.reads]
    return entries


def access_list(users: Mapping[str, str], root: str = "genre", discovery: str = DISCOVERY) -> str:
    """Return an acl_file for Mosquitto 1.6: users by name with their roles; root and discovery as above."""
    parts = []
    for name, role_name in users.items():
        role = ROLES[role_name]
        lines = [f"# {role_name}: {role.about}", f"user {name}"]
        if role.prefixed:
            lines += [f"topic write +/{root}/{topic}" for topic in role.writes]
        lines += [f"topic write {_full(root, discovery, topic)}" for topic in role.writes if topic not in role.reads]
        lines += [f"topic read {_full(root, discovery, topic)}" for topic in role.reads if topic not in role.writes]
        lines += [f"topic readwrite {_full(root, discovery, topic)}" for topic in role.reads if topic in role.writes]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def password_line(name: str, password: str) -> str:
    """Return one line of a password_file that Mosquitto 1.6 reads as well as 2: salted SHA-512.

    One round only, so use long random passwords there; `genre broker` makes such.
    """
    salt = secrets.token_bytes(12)
    digest = hashlib.sha512(password.encode() + salt).digest()
    return f"{name}:$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"
