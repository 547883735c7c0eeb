"""Who may do what on the page: the password, sessions, and the checks that keep other sites' pages out.

Looking is open unless `login_to_view`; changing streams always takes the password. Another site's form or script can't
change anything: the cookie is SameSite=Strict, changes need a header that only our own page can send, and Origin must
be this host or one of `dashboard.hosts`. The Host header must be a name of this machine, against DNS rebinding. Start
at `Access`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Mapping

from services.dashboard.http.guesses import Guesses
from services.settings import credentials
from services.settings.schema import Dashboard
from services.settings.web_address import host_name

COOKIE = "genre_session"
HEADER = "x-genre-request"
SESSION_S = 12 * 3600
MOST_SESSIONS = 1_000

Headers = Mapping[str, str]


class Access:
    """Rights of a request, from its headers, cookies and the address it comes from."""

    def __init__(self, settings: Dashboard) -> None:
        password = credentials.password(settings.password_file, "dashboard.password_file")
        self._digest = _digest(password) if password is not None else None
        self._login_to_view = settings.login_to_view
        self._named = {host_name(host) for host in settings.hosts}
        self._hosts = {"localhost", settings.host.lower(), *self._named}
        self._sessions: dict[str, float] = {}
        self._guesses = Guesses()
        self._lock = threading.Lock()

    @property
    def can_change(self) -> bool:
        """Whether there is a password, and so anything to log in for."""
        return self._digest is not None

    def may_view(self, cookies: Mapping[str, str], headers: Headers, address: str) -> bool:
        """Whether this request may look."""
        return not self._login_to_view or self.known(cookies) or self._bearer(headers, address)

    def known(self, cookies: Mapping[str, str]) -> bool:
        """Whether the request comes from someone logged in."""
        token = cookies.get(COOKIE, "")
        with self._lock:
            return self._sessions.get(_digest(token), 0.0) > time.monotonic()

    def may_change(self, cookies: Mapping[str, str], headers: Headers, address: str) -> bool:
        """Whether this request may change streams: logged in, and sent by our own page or a program."""
        if self._digest is None:
            return False
        return (self.known(cookies) and not self.foreign(headers)) or self._bearer(headers, address)

    def foreign(self, headers: Headers) -> str:
        """Return why a request was not made by our own page, '' where it was.

        Another site's page can neither send our header without being asked first, nor choose its Origin.
        """
        if HEADER not in headers or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return "that request did not come from this page"
        origin = headers.get("origin")
        if origin is None or origin.split("://", 1)[-1].lower() == headers.get("host", "").lower():
            return ""
        try:
            name = host_name(origin)
        except ValueError:
            return "that request did not come from this page"
        if name in self._named:
            return ""  # behind a proxy that puts its own Host in the place of the browser's
        return (
            f"this page is open as {origin[:200]}, the request is for {headers.get('host', '')[:200]}: let the proxy "
            "pass Host on (nginx: proxy_set_header Host $http_host), "
            f"or add {name!r} to dashboard.hosts"
        )

    def host_is_ours(self, host: str) -> bool:
        """Whether the Host header names this machine; an address in numbers can't be rebound by DNS."""
        try:
            name = host_name(host)
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def login(self, password: str, address: str) -> tuple[str | None, float]:
        """Return a session's token, or None and how many seconds this address waits before its next try."""
        with self._lock:
            if not self._right(password, address):
                return None, self._guesses.wait_s(address)
            now = time.monotonic()
            self._sessions = {key: until for key, until in self._sessions.items() if until > now}
            while len(self._sessions) >= MOST_SESSIONS:
                self._sessions.pop(min(self._sessions, key=lambda key: self._sessions[key]))
            token = secrets.token_urlsafe(32)
            self._sessions[_digest(token)] = now + SESSION_S
            return token, 0.0

    def logout(self, cookies: Mapping[str, str]) -> None:
        """End a session."""
        with self._lock:
            self._sessions.pop(_digest(cookies.get(COOKIE, "")), None)

    def _bearer(self, headers: Headers, address: str) -> bool:
        """Whether a program gave the password itself: `Authorization: Bearer <password>`."""
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            return False
        with self._lock:
            return self._right(value, address)

    def _right(self, password: str, address: str) -> bool:
        """Whether it is the password, asked no faster than guessing is allowed."""
        if self._guesses.wait_s(address):
            return False
        right = self._digest is not None and hmac.compare_digest(_digest(password), self._digest)
        if not right:
            self._guesses.wrong(address)
        return right


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
