"""The broker upstream of all boxes: who may do what, and its configuration; a box's end is in `mosquitto_conf.py`.

Pure functions of values. Each box logs in as itself and may write below fleet/<its own name>/ alone: one pattern for
any number of boxes. Start at `upstream_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from broker.mosquitto_conf import LIMITS, access_lists, persistence_config, tls_lines
from services.monitor import fleet

UPSTREAM_QUEUE = 100_000
"""Messages held for one reader that is away or slow: two minutes of 1,000 boxes (docs/fleet.md)."""
VIEWER, BOX = "viewer", "box"
ROLES = {
    BOX: "a box: writes its results, events and status below fleet/<its name>/, reads nothing",
    VIEWER: "people, dashboards, genre watch --fleet: reads what the boxes send, writes nothing",
}


def fleet_access(users: Mapping[str, str], topic_root: str = "genre") -> str:
    """Return the acl_file of the upstream broker.

    Args:
        users: the viewers by name; boxes need no line, however many there are.
    """
    public = ("results", "events", "status/#", "streams/#")
    text = "# Each user may write below its own name: a box logs in as itself.\n"
    text += "".join(f"pattern write {fleet.LEVEL}/%u/{topic_root}/{topic}\n" for topic in public)
    text += f"pattern write {fleet.link('%u')}\n"
    for name in sorted(name for name, role in users.items() if role == VIEWER):
        text += f"\nuser {name}\ntopic deny {fleet.LEVEL}/{name}/#\n"
        text += "".join(f"topic read {fleet.LEVEL}/+/{topic_root}/{topic}\n" for topic in public)
        text += f"topic read {fleet.link()}\n"
    return text


def upstream_config(folder: Path, state: Path, port: int, queue: int = UPSTREAM_QUEUE) -> str:
    """Return the configuration of the broker upstream of all boxes: TLS, a password for each, patterns for rights.

    Args:
        folder: server.crt, server.key, passwords.txt and access.txt.
        state: see `persistence_config`.
        queue: most messages that wait for a reader that is away or slow.
    """
    limits = LIMITS.replace("max_queued_messages 12000", f"max_queued_messages {queue}")
    security = access_lists(folder / "passwords.txt", folder / "access.txt")
    head = f"allow_anonymous false\n{security}{persistence_config(state)}{limits}"
    return f"{head}\nlistener {port}\n{tls_lines(folder)}"
