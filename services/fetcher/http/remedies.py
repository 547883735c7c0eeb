"""What a person can do where a stream can't be had, by the cause of the failure. Start at `unavailable`."""

from __future__ import annotations

from services.errors import GenreError
from services.fetcher.http.errors import FetchError
from services.fetcher.http.urls import shown

REMEDIES = {
    "http-404": "check the URL",
    "http-410": "the stream is gone; check the URL",
    "http-401": "give the stream a headers_file with its credentials",
    "http-403": "give the stream a headers_file with its credentials, or a fresh URL",
    "http-407": "give hls.proxy the proxy's user and password",
    "dns": "check the host name and the name server",
    "refused": "check host and port, and that the server runs",
    "tls": "check the certificate, or give hls.ca_file the CA that signed it",
    "forbidden-address": "set hls.allow_private = true if this is meant",
    "bad-url": "use an http or https URL",
    "too-large": "check that this is a playlist",
    "redirects": "check the URL: the server redirects in circles",
}


def unavailable(url: str, error: FetchError) -> GenreError:
    """Tell why a stream can't be had."""
    return GenreError(shown(url), error.detail, REMEDIES.get(error.cause, "check the server, then try again"))
