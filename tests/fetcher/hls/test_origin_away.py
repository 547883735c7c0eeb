"""A list that keeps its segments waits for an origin that is away; only a segment that is broken alone is a gap."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from services.errors import GenreError
from services.fetcher.events import StreamEvent
from tests.fetcher.builders import Listened, listen, listener, media_playlist, needs_ffmpeg
from tests.fetcher.origin import Reply, ScriptedOrigin, wait_for

pytestmark = needs_ffmpeg
BUSY = Reply(b"busy", 503)
RESET = Reply(b"", reset=True)


class Vod:
    """A complete list on one origin; all or some of it can be taken away."""

    def __init__(self, origin: ScriptedOrigin, made: Any) -> None:
        self.origin, self.folder = origin, made("ts-aac")
        origin.serve(self.folder)
        self.names = [line for line in (self.folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]
        self.text = media_playlist(self.names)
        origin.put("/vod.m3u8", self.text)
        self.heard = Listened()
        self.error: GenreError | None = None

    def take_away(self, answer: Reply, *paths: str) -> None:
        for path in paths:
            self.origin.put(path, answer)

    def give_back(self) -> None:
        self.origin.serve(self.folder)
        self.origin.put("/vod.m3u8", self.text)

    def listen(self, after: Callable[[StreamEvent], None]) -> threading.Thread:
        def run() -> None:
            one = listener(self.origin.url("/vod.m3u8"))
            try:
                for item in one.listen():
                    self.heard.items.append(item)
                    after(item)
            except GenreError as error:
                self.error = error
            finally:
                one.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


@pytest.mark.parametrize("answer", [BUSY, RESET], ids=["http-503", "reset"])
@pytest.mark.parametrize("list_stays", [False, True])
def test_a_vod_waits_for_its_origin_and_loses_nothing(
    origin: ScriptedOrigin, made: Any, answer: Reply, list_stays: bool
) -> None:
    vod = Vod(origin, made)
    paths = [f"/{name}" for name in vod.names] + ([] if list_stays else ["/vod.m3u8"])
    taken = threading.Event()

    def after(item: StreamEvent) -> None:
        if vod.heard.audio and not taken.is_set():
            taken.set()
            vod.take_away(answer, *paths)

    thread = vod.listen(after)
    wait_for(lambda: "stalled" in vod.heard.reports)
    asked = len(origin.requests)
    wait_for(lambda: len(origin.requests) > asked + 12)  # it goes on asking, for longer than a segment's tries
    assert vod.heard.ended is None and not vod.heard.gaps
    vod.give_back()
    thread.join(20)
    assert vod.error is None and vod.heard.ended is not None and not vod.heard.gaps
    assert vod.heard.reports == ["stalled", "recovered"]
    assert np.array_equal(vod.heard.pcm(), listen(origin.url("/vod.m3u8")).pcm())


@pytest.mark.parametrize("answer", [BUSY, RESET], ids=["http-503", "reset"])
@pytest.mark.parametrize("number", [0, 2])
def test_one_segment_that_is_broken_for_good_is_a_gap(
    origin: ScriptedOrigin, made: Any, answer: Reply, number: int
) -> None:
    vod = Vod(origin, made)
    vod.take_away(answer, "/" + vod.names[number])
    heard = listen(origin.url("/vod.m3u8"))
    assert heard.ended is not None and len(heard.gaps) == 1 and "stalled" not in heard.reports


def test_what_is_listed_and_not_yet_heard_is_news_however_slowly_it_comes(origin: ScriptedOrigin, made: Any) -> None:
    """The list stands still while its segments are fetched; neither it nor the station has stalled."""
    vod = Vod(origin, made)
    for name in vod.names:
        body = (vod.folder / name).read_bytes()
        origin.put(f"/{name}", lambda _, body=body: (origin.closing.wait(0.4), body)[1])
    origin.put("/vod.m3u8", media_playlist(vod.names, target=0.2, end=False, head="#EXT-X-PLAYLIST-TYPE:VOD"))
    heard = listen(origin.url("/vod.m3u8"), dead_after_s=1.0)
    assert heard.ended is not None and not heard.gaps and "stalled" not in heard.reports
    assert np.array_equal(heard.pcm(), listen(origin.url("/list.m3u8")).pcm())
