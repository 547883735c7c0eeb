"""A playlist that did not change costs no parsing, and where the server gives an ETag no body either."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from services.fetcher.hls import playlist_loader
from services.fetcher.hls.playlist_loader import PlaylistLoader
from tests.fetcher.builders import listen, media_playlist, needs_ffmpeg
from tests.fetcher.hls.test_reader_live import QUICK, TARGET
from tests.fetcher.hls.test_traps import names_in
from tests.fetcher.http.asking import cause_of, client
from tests.fetcher.origin import Reply, Request, ScriptedOrigin


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note every text that is parsed."""
    texts: list[str] = []
    really = playlist_loader.parse

    def noted(text: str, *more: Any) -> Any:
        texts.append(text)
        return really(text, *more)

    monkeypatch.setattr(playlist_loader, "parse", noted)
    return texts


@pytest.fixture
def loader(origin: ScriptedOrigin) -> Iterator[PlaylistLoader]:
    with client(origin.url("/list.m3u8")) as one:
        yield PlaylistLoader(one, threading.Event)


def with_etag(text: str, etag: str) -> Any:
    """Answer as a server that knows ETags does."""

    def answer(request: Request) -> Reply:
        same = request.headers.get("If-None-Match") == etag
        return Reply(b"" if same else text.encode(), 304 if same else 200, {"ETag": etag})

    return answer


def test_equal_bytes_are_not_parsed_again(origin: ScriptedOrigin, loader: PlaylistLoader, parsed: list[str]) -> None:
    origin.put("/list.m3u8", media_playlist(["0.ts", "1.ts"], end=False))
    first, _ = loader.open()
    assert [s.uri for s in loader.reload().segments] == [s.uri for s in loader.reload().segments]
    assert len(parsed) == 1 and origin.count("/list.m3u8") == 3
    origin.put("/list.m3u8", media_playlist(["0.ts", "1.ts", "2.ts"], end=False))
    assert len(loader.reload().segments) == len(first.segments) + 1 and len(parsed) == 2


def test_a_list_that_its_etag_says_is_unchanged_is_neither_sent_nor_parsed(
    origin: ScriptedOrigin, loader: PlaylistLoader, parsed: list[str]
) -> None:
    origin.put("/list.m3u8", with_etag(media_playlist(["0.ts"], end=False), 'W/"one"'))
    first, _ = loader.open()
    assert [s.uri for s in loader.reload().segments] == [s.uri for s in first.segments]
    origin.put("/list.m3u8", with_etag(media_playlist(["0.ts", "1.ts"], end=False), '"two"'))
    assert len(loader.reload().segments) == len(loader.reload().segments) == 2
    assert [r.headers.get("If-None-Match") for r in origin.requests] == [None, 'W/"one"', 'W/"one"', '"two"']
    assert len(parsed) == 2 and origin.connections == 1


def test_a_list_that_is_complete_is_not_kept(origin: ScriptedOrigin, loader: PlaylistLoader, parsed: list[str]) -> None:
    origin.put("/list.m3u8", media_playlist(["0.ts"], end=True))
    loader.open()
    loader.reload()
    assert len(parsed) == 2


def test_an_etag_is_not_sent_to_where_a_redirect_leads(
    origin: ScriptedOrigin, loader: PlaylistLoader, parsed: list[str]
) -> None:
    origin.put("/list.m3u8", Reply(b"", 302, {"Location": "/there.m3u8"}))
    origin.put("/there.m3u8", with_etag(media_playlist(["0.ts"], end=False), '"one"'))
    loader.open()
    loader.reload()
    assert all("If-None-Match" not in request.headers for request in origin.requests) and len(parsed) == 1


@pytest.mark.parametrize("etag", ["", "one", '"a"b"', '"' + "x" * 300 + '"', '"\u00fc"', "*"])
def test_an_etag_that_can_not_be_sent_back_is_ignored(
    origin: ScriptedOrigin, loader: PlaylistLoader, etag: str
) -> None:
    origin.put("/list.m3u8", Reply(media_playlist(["0.ts"], end=False).encode(), headers={"ETag": etag}))
    loader.open()
    assert len(loader.reload().segments) == 1
    assert all("If-None-Match" not in request.headers for request in origin.requests)


def test_not_modified_is_a_failure_where_nothing_was_held(origin: ScriptedOrigin) -> None:
    origin.put("/x", Reply(b"", 304))
    assert cause_of(origin.url("/x")) == "http-304"


@needs_ffmpeg
def test_a_stream_whose_server_answers_not_modified_is_heard_to_its_end(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac", seconds=16.0)
    names = names_in(folder)
    origin.serve(folder)
    lists = [media_playlist(names[: 2 + turn], end=turn == 2, target=TARGET) for turn in range(3)]
    taken: list[int] = []

    def answer(request: Request) -> Reply:
        taken.append(1)  # each list is there for four loads
        return with_etag(lists[min(len(taken) // 4, 2)], f'"{min(len(taken) // 4, 2)}"')(request)

    origin.put("/live.m3u8", answer)
    heard = listen(origin.url("/live.m3u8"), **QUICK)
    assert heard.ended is not None and not heard.gaps
    assert {item.resume_point.place["segment"] for item in heard.audio} == {0, 1, 2, 3}
