"""Who may do what on the page: the password, sessions, and the checks that keep other sites' pages out.

Looking is open unless `login_to_view`; changing streams always takes the password. Another site's form or script can't
change anything: the cookie is SameSite=Strict, changes need a header that only our own page can send, and Origin must
be this host. The Host header must be a name of this machine, against DNS rebinding. Start at `Access`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import threading
import time
from collections.abc import Mapping

from services import credentials
from services.settings import Dashboard

COOKIE = "genre_session"
HEADER = "x-genre-request"
SESSION_S = 12 * 3600
MOST_SESSIONS = 1_000
FREE_TRIES = 5
LONGEST_WAIT_S = 60.0


class Access:
    """The page's door."""

    def __init__(self, settings: Dashboard) -> None:
        password = credentials.password(settings.password_file)
        self._digest = _digest(password) if password is not None else None
        self._login_to_view = settings.login_to_view
        self._hosts = {"localhost", settings.host.lower(), *(host.lower() for host in settings.hosts)}
        self._sessions: dict[str, float] = {}
        self._failures, self._wait_until = 0, 0.0
        self._lock = threading.Lock()

    @property
    def can_change(self) -> bool:
        """Whether there is a password, and so anything to log in for."""
        return self._digest is not None

    def may_view(self, cookies: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        """Whether this request may look."""
        return not self._login_to_view or self.known(cookies) or self._bearer(headers)

    def known(self, cookies: Mapping[str, str]) -> bool:
        """Whether the request comes from someone logged in."""
        token = cookies.get(COOKIE, "")
        with self._lock:
            return self._sessions.get(_digest(token), 0.0) > time.monotonic()

    def may_change(self, cookies: Mapping[str, str], headers: Mapping[str, str]) -> bool:
        """Whether this request may change streams: logged in, and sent by our own page or a program."""
        return self._digest is not None and ((self.known(cookies) and self.same_site(headers)) or self._bearer(headers))

    def same_site(self, headers: Mapping[str, str]) -> bool:
        """Whether a request was made by our own page: another site's page can't send the header or fake Origin."""
        if HEADER not in headers or headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = headers.get("origin")
        return origin is None or origin.split("://", 1)[-1].lower() == headers.get("host", "").lower()

    def host_is_ours(self, host: str) -> bool:
        """Whether the Host header names this machine; an address in numbers can't be rebound by DNS."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def login(self, password: str) -> tuple[str | None, float]:
        """Return a session's token, or None and how many seconds to wait before the next try."""
        with self._lock:
            now = time.monotonic()
            if now < self._wait_until:
                return None, self._wait_until - now
            if self._digest is None or not hmac.compare_digest(_digest(password), self._digest):
                self._failures += 1
                if self._failures >= FREE_TRIES:
                    self._wait_until = now + min(LONGEST_WAIT_S, 2.0 ** (self._failures - FREE_TRIES))
                return None, max(0.0, self._wait_until - now)
            self._failures = 0
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

    def _bearer(self, headers: Mapping[str, str]) -> bool:
        """Whether a program gave the password itself: `Authorization: Bearer <password>`."""
        kind, _, value = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or self._digest is None:
            return False
        with self._lock:
            if time.monotonic() < self._wait_until:
                return False
            good = hmac.compare_digest(_digest(value), self._digest)
            self._failures = 0 if good else self._failures + 1
            if self._failures >= FREE_TRIES:
                self._wait_until = time.monotonic() + min(LONGEST_WAIT_S, 2.0 ** (self._failures - FREE_TRIES))
            return good


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
