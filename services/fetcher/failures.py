"""Why a request failed, in one word: the closed list of causes that gaps, reports and the docs use.

Turns the exceptions of requests, urllib3 and the sockets below them into `FetchError`. Start at `failure_of`.
"""

from __future__ import annotations

import requests
import urllib3

from services.fetcher.sockets import ForbiddenAddressError, StoppedError

_FINAL = {"http-404", "http-410", "http-401", "http-403", "too-large", "forbidden-address", "bad-url", "tls"}


class FetchError(Exception):
    """A request failed; cause is one word, e.g. "http-404", "timeout", "reset", "truncated", "too-large"."""

    def __init__(self, cause: str, detail: str, retry_after_s: float | None = None) -> None:
        self.cause, self.detail, self.retry_after_s = cause, detail, retry_after_s
        super().__init__(f"{cause}: {detail}")

    @property
    def transient(self) -> bool:
        """Say whether trying again may help."""
        return self.cause not in _FINAL

    @property
    def unauthorized(self) -> bool:
        """Say whether a fresh token may help: 401 and 403."""
        return self.cause in ("http-401", "http-403")


def failure_of(error: Exception) -> FetchError:
    """Give a library's exception its one-word cause."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        inner = next((arg for arg in link.args if isinstance(arg, BaseException)), None)
        link = getattr(link, "reason", None) if isinstance(getattr(link, "reason", None), BaseException) else inner
        link = link or chain[-1].__cause__ or chain[-1].__context__
    for link in chain:
        if isinstance(link, StoppedError):
            raise link
        if isinstance(link, ForbiddenAddressError):
            return FetchError("forbidden-address", f"leads to the private address {link}")
    kinds: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
        ("dns", (urllib3.exceptions.NameResolutionError,)),
        ("tls", (requests.exceptions.SSLError, urllib3.exceptions.SSLError)),
        ("truncated", (urllib3.exceptions.IncompleteRead,)),
        ("bad-encoding", (requests.exceptions.ContentDecodingError, urllib3.exceptions.DecodeError)),
        (
            "bad-url",
            (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, urllib3.exceptions.LocationValueError),
        ),
        ("refused", (ConnectionRefusedError,)),
        ("timeout", (TimeoutError, urllib3.exceptions.TimeoutError)),
    )
    text = next((str(link) for link in reversed(chain) if str(link)), type(error).__name__)
    for cause, types in kinds:
        if any(isinstance(link, types) for link in chain):
            return FetchError(cause, text[:200])
    return FetchError("reset", text[:200])
