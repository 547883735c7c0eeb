"""Why a request failed, in one word: the closed list of causes that gaps, reports and the docs use.

Turns the exceptions of requests, urllib3 and the sockets below them into `FetchError`. Start at `named_failures`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import urlsplit

import requests
import urllib3

from services.fetcher.http.addresses import ForbiddenAddressError
from services.fetcher.http.watch import RequestWatch, StoppedError
from services.text import clean

_FINAL = {"http-404", "http-410", "http-401", "http-403", "too-large", "forbidden-address", "bad-url", "tls"}


class FetchError(Exception):
    """A request failed; cause is one word, e.g. "http-404", "timeout", "reset", "truncated", "too-large".

    The detail often quotes a server, which may send anything: it is cleaned here, once.

    Attributes:
        came: of a segment whose body ended early, what came of it.
    """

    def __init__(self, cause: str, detail: str, retry_after_s: float | None = None) -> None:
        self.cause, self.detail, self.retry_after_s = cause, clean(detail), retry_after_s
        self.came = b""
        super().__init__(f"{cause}: {self.detail}")

    @property
    def transient(self) -> bool:
        """Say whether trying again may help."""
        return self.cause not in _FINAL

    @property
    def unauthorized(self) -> bool:
        """Say whether a fresh token may help: 401 and 403."""
        return self.cause in ("http-401", "http-403")


@contextlib.contextmanager
def named_failures(url: str, watch: RequestWatch) -> Iterator[None]:
    """Turn what libraries raise inside into a FetchError; a stop goes before what it caused."""
    try:
        try:
            yield
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            watch.check()
            raise failure_of(error) from error
        except ValueError as error:  # what requests, urllib3 and http.client make of a hostile header
            raise FetchError("bad-response", f"{type(error).__name__}: {error}"[:200]) from error
    except ForbiddenAddressError as error:
        raise FetchError("forbidden-address", f"{urlsplit(url).hostname} is the private address {error}") from error
    except TimeoutError as error:
        raise FetchError("timeout", str(error)) from error


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
    said = (str(getattr(link, "strerror", None) or link) for link in reversed(chain))
    text = next((words for words in said if words), type(error).__name__)
    for cause, types in kinds:
        if any(isinstance(link, types) for link in chain):
            return FetchError(cause, text[:200])
    return FetchError("reset", text[:200])
