"""One listener that only fetches: playlists and segments of a VOD stream, in one of three ways. What `http` measures.

`single` opens a connection a request (plain requests.get), `session` keeps one (requests.Session), `fetcher` is the
fetcher's own client. Nothing is decoded. `python -m benchmarks.http_client WAY RENDITION URL [CA.pem]` prints its cost.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import requests

from services.fetcher.hls.playlist import MediaPlaylist, MultivariantPlaylist, parse
from services.fetcher.hls.rendition import choose
from services.fetcher.http.client import Origin
from services.settings.schema import Hls, Stream

WAYS = ("single", "session", "fetcher")
Get = Callable[[str, bool], tuple[bytes, str]]
"""URL and whether it is a playlist -> body and final URL."""


def client(way: str, url: str, ca: Path | None) -> Get:
    """Return the function that fetches, in one of the WAYS."""
    verify: str | bool = str(ca) if ca else True
    if way == "fetcher":
        origin = Origin(Stream(name="bench", url=url), Hls(ca_file=ca), threading.Event())

        def fetch(url: str, playlist: bool) -> tuple[bytes, str]:
            response = origin.fetch(url, "playlist" if playlist else "segment")
            return response.body, response.url

        return fetch
    get = requests.get if way == "single" else requests.Session().get

    def plain(url: str, playlist: bool) -> tuple[bytes, str]:
        response = get(url, verify=verify, timeout=30)
        response.raise_for_status()
        return response.content, response.url

    return plain


def listen(get: Get, url: str, rendition: str) -> tuple[int, int, list[float]]:
    """Fetch a stream to its end: (requests, bytes of bodies, seconds of each segment)."""
    body, final = get(url, True)
    count, size = 1, len(body)
    playlist = parse(body.decode(), final)
    if isinstance(playlist, MultivariantPlaylist):
        chosen = playlist.variants[0].uri
        if rendition == "cheapest":
            chosen = choose(playlist, min_audio_bps=Hls().min_audio_bps).candidates[0].uri
        body, final = get(chosen, True)
        count, size = count + 1, size + len(body)
        playlist = parse(body.decode(), final)
    assert isinstance(playlist, MediaPlaylist)
    seconds = []
    for segment in playlist.segments:
        began = time.monotonic()
        body, _ = get(segment.uri, False)
        seconds.append(time.monotonic() - began)
        count, size = count + 1, size + len(body)
    return count, size, seconds


def main(way: str, rendition: str, url: str, ca: str | None = None) -> None:
    """Print what fetching cost as one JSON object."""
    get = client(way, url, Path(ca) if ca else None)
    print(json.dumps({"ready": True}), flush=True)
    cpu, wall = time.process_time(), time.monotonic()
    count, size, seconds = listen(get, url, rendition)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    result = {"requests": count, "body_bytes": size, "cpu_s": cpu, "wall_s": wall, "segment_s": sorted(seconds)}
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
