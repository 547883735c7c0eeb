"""One broker's set-up: certificates, users, passwords and mosquitto.conf, all in one folder.

dynamic-security.json is the one register of users, whatever form the broker reads. What the files say is made by
`mosquitto_conf.py`, `access.py` and `certificates.py`. Start at `BrokerFolder.set_up`.
"""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import Any

from broker import access, certificates
from broker.files import write
from broker.mosquitto_conf import access_lists, dynamic_security, lan_config
from services.errors import GenreError, UsageError

SERVICES = ("fetcher", "featurizer", "inference", "dashboard")
PLUGIN_PLACES = (
    "usr/lib/*/mosquitto_dynamic_security.so",
    "usr/lib/mosquitto_dynamic_security.so",
    "usr/local/lib/mosquitto_dynamic_security.so",
)


class BrokerFolder:
    """The files of one set-up.

    Args:
        path: where they lie; it need not exist before `set_up`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._register = self.path / "dynamic-security.json"
        self._passwords, self._access = self.path / "passwords.txt", self.path / "access.txt"
        self._clients_folder = self.path / "clients"

    # --- the whole --------------------------------------------------------------------------------------------------

    def set_up(
        self,
        hosts: list[str],
        port: int,
        websockets_port: int | None,
        state: Path,
        old: bool,
        root: str = "genre",
        discovery: str = access.DISCOVERY,
        client_certificates: bool = False,
    ) -> None:
        """Write everything that is missing; the server certificate and mosquitto.conf are always new.

        Args:
            state: where the broker keeps sessions.
            old: access lists instead of roles, for Mosquitto 1.6.
            root: first level or levels of the topics that the roles are about.
            discovery: Home Assistant's discovery prefix.
            client_certificates: let nobody in without one, from now on.

        Raises:
            GenreError: Mosquitto's dynamic security plugin is not on this machine.
            OSError: the folder can't be written.
        """
        plugin = next((str(path) for place in PLUGIN_PLACES for path in sorted(Path("/").glob(place))), None)
        if plugin is None and not old:
            remedy = "install mosquitto 2.0 or later, or use --mosquitto-1.6"
            raise GenreError("Mosquitto", "has no dynamic security plugin here", remedy)
        self.path.mkdir(parents=True, exist_ok=True)
        if client_certificates:
            self._clients_folder.mkdir(mode=0o750, exist_ok=True)
        if not (self.path / "ca.key").exists():
            key = certificates.new_key()
            write(self.path / "ca.crt", certificates.authority(key), 0o644)
            write(self.path / "ca.key", key, 0o600)
        self.certify(hosts)
        if old:
            self._access.touch()
            write(self._passwords, _read(self._passwords), 0o600, for_broker=True)
            security = access_lists(self._passwords.absolute(), self._access.absolute())
        else:
            security = dynamic_security(plugin or "", self._register.absolute())
        clients = self._clients()
        for name in SERVICES:
            if not any(client["username"] == name for client in clients):
                clients = self._with_user(clients, name, name, secrets.token_urlsafe(24))
        self._save(clients, root, discovery)
        asked = self.asks_for_certificates
        text = lan_config(
            self.path.absolute(), security, state, port, websockets_port=websockets_port, client_certificates=asked
        )
        write(self.path / "mosquitto.conf", text.encode(), 0o644)

    def certify(self, hosts: list[str]) -> None:
        """Make a new key and certificate for the broker, signed by the folder's CA, and for each user where it asks."""
        for name in self.users:
            self._certify_client(name)
        key, (ca, ca_key) = certificates.new_key(), self._authority()
        write(self.path / "server.crt", certificates.server_certificate(ca, ca_key, key, hosts), 0o644)
        write(self.path / "server.key", key, 0o600, for_broker=True)

    def check(self) -> None:
        """Refuse a folder that holds no set-up.

        Raises:
            UsageError: with what makes one.
        """
        if not self._register.exists():
            remedy = "run 'genre broker init --host NAME' first, or give --folder"
            raise UsageError(str(self.path), "holds no broker set-up", remedy)

    @property
    def hosts(self) -> list[str]:
        """The names that the server certificate is for."""
        return certificates.hosts_of((self.path / "server.crt").read_bytes())

    @property
    def port(self) -> int:
        """The port of mosquitto.conf's first listener.

        Raises:
            GenreError: it has none.
        """
        config = self.path / "mosquitto.conf"
        port = re.search(r"^listener (\d+)", config.read_text(encoding="utf-8"), re.MULTILINE)
        if port is None:
            raise GenreError(str(config), "has no listener", "run 'genre broker init' again")
        return int(port[1])

    @property
    def root(self) -> str | None:
        """The topics' first level that the roles are about; None where there is no set-up yet."""
        return self._beginning("inference", "/results")

    @property
    def discovery(self) -> str | None:
        """Home Assistant's discovery prefix, likewise."""
        return self._beginning("home-assistant", "/status")

    def _beginning(self, role: str, rest: str) -> str | None:
        if not self._register.exists():
            return None
        try:
            listed = json.loads(self._register.read_text(encoding="utf-8"))["roles"]
            roles = {role["rolename"]: role["acls"] for role in listed}
            return str(roles[role][0]["topic"]).removesuffix(rest)
        except (ValueError, LookupError, TypeError) as error:
            raise self._damaged(error) from error

    @property
    def asks_for_certificates(self) -> bool:
        """Whether every client needs one."""
        return self._clients_folder.is_dir()

    # --- users ------------------------------------------------------------------------------------------------------

    @property
    def users(self) -> list[str]:
        """Names of the users."""
        return [client["username"] for client in self._clients()]

    def add_user(self, name: str, role: str, password: str) -> None:
        """Add a user, or give one a new password and role."""
        self._save(self._with_user(self._clients(), name, role, password))

    def remove_user(self, name: str) -> None:
        """Take a user and its secrets away."""
        self._forget_line(name)
        self._save([client for client in self._clients() if client["username"] != name])
        for secret in (f"passwords/{name}", f"clients/{name}.crt", f"clients/{name}.key"):
            (self.path / secret).unlink(missing_ok=True)

    def _clients(self) -> list[dict[str, Any]]:
        """Return the users as the register has them."""
        if not self._register.exists():
            return []
        try:
            clients: list[dict[str, Any]] = json.loads(self._register.read_text(encoding="utf-8"))["clients"]
            return clients
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from error

    def _with_user(self, clients: list[dict[str, Any]], name: str, role: str, password: str) -> list[dict[str, Any]]:
        passwords = self.path / "passwords"
        passwords.mkdir(mode=0o750, exist_ok=True)
        write(passwords / name, password.encode() + b"\n", 0o600)
        if self._access.exists():
            self._forget_line(name)
            lines = _read(self._passwords) + access.password_line(name, password).encode()
            write(self._passwords, lines, 0o600, for_broker=True)
        others = [client for client in clients if client["username"] != name]
        self._certify_client(name)
        return [*others, access.client_entry(name, password, role)]

    def _certify_client(self, name: str) -> None:
        if not self.asks_for_certificates:
            return
        key, (ca, ca_key) = certificates.new_key(), self._authority()
        certificate = certificates.client_certificate(ca, ca_key, key, name)
        write(self._clients_folder / f"{name}.crt", certificate, 0o644)
        write(self._clients_folder / f"{name}.key", key, 0o600)

    def _authority(self) -> tuple[bytes, bytes]:
        """Return the CA's certificate and key."""
        return (self.path / "ca.crt").read_bytes(), (self.path / "ca.key").read_bytes()

    def _save(self, clients: list[dict[str, Any]], root: str | None = None, discovery: str | None = None) -> None:
        root = root or self.root or "genre"
        discovery = discovery or self.discovery or access.DISCOVERY
        text = access.dynamic_security_json(clients, root, discovery)
        write(self._register, text.encode(), 0o600, for_broker=True)
        if self._access.exists():
            users = {client["username"]: client["roles"][0]["rolename"] for client in clients}
            write(self._access, access.access_list(users, root, discovery).encode(), 0o600, for_broker=True)

    def _forget_line(self, name: str) -> None:
        """Take a user out of Mosquitto 1.6's password file."""
        if self._passwords.exists():
            lines = _read(self._passwords).splitlines(keepends=True)
            kept = [line for line in lines if not line.startswith(name.encode() + b":")]
            write(self._passwords, b"".join(kept), 0o600, for_broker=True)

    def _damaged(self, error: Exception) -> GenreError:
        remedy = "restore it, or remove it and run 'genre broker init' again"
        return GenreError(str(self._register), f"is damaged ({error})", remedy)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""
