"""Against a real Icecast fed by ffmpeg: samples, titles, a source that drops, a mount that takes over."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from benchmarks.icecast import Icecast
from services.fetcher.continuous.icy import IcyFilter
from tests.fetcher.continuous.hearing import Station, hear, oracle, same
from tests.fetcher.continuous.icecast import WireTap, needs_icecast

pytestmark = needs_icecast


@pytest.fixture(scope="module")
def icecast() -> Iterator[Icecast]:
    with Icecast({"/main": "/spare"}) as server:
        for codec in ("mp3", "aac", "opus", "flac"):
            server.feed(f"/{codec}", codec)
        yield server


@pytest.mark.parametrize(("mount", "format"), [("/mp3", "mp3"), ("/aac", "aac"), ("/opus", "ogg"), ("/flac", "ogg")])
def test_samples_are_what_ffmpeg_makes_of_the_same_bytes(icecast: Icecast, mount: str, format: str) -> None:
    with WireTap(icecast.port) as tap:
        heard = hear(f"http://127.0.0.1:{tap.port}{mount}", lambda h: h.seconds > 6)
        head, _, body = bytes(tap.kept).partition(b"\r\n\r\n")
    interval = int(head.lower().partition(b"icy-metaint:")[2].split(b"\r\n")[0] or 0)
    audio = b"".join(part for part in IcyFilter(interval).feed(body) if isinstance(part, bytes))
    assert (interval > 0) == (mount in ("/mp3", "/aac"))
    assert same(heard.samples(0), oracle(audio, format))
    assert heard.reasons == ["start"] and all(item.live for item in heard.audio)
    assert heard.reports == ["chosen"]


def test_titles_are_told_as_they_change(icecast: Icecast) -> None:
    icecast.title("/mp3", "Björk - Jóga; 'live'")

    def next_title(heard: Station) -> bool:
        if len(heard.tracks) == 1:
            icecast.title("/mp3", "News")
        return len(heard.tracks) == 2

    heard = hear(icecast.url("/mp3"), next_title)
    assert [(t.artist, t.title) for t in heard.tracks] == [("Björk", "Jóga; 'live'"), ("", "News")]
    assert heard.tracks[0].first_sample < heard.tracks[1].first_sample


def test_ogg_comments_are_titles(icecast: Icecast) -> None:
    icecast.feed("/tagged", "vorbis", more=["-metadata", "title=Jóga", "-metadata", "artist=Björk"])
    heard = hear(icecast.url("/tagged"), lambda h: h.seconds > 1)
    assert [(t.artist, t.title) for t in heard.tracks] == [("Björk", "Jóga")]


def test_a_source_that_drops_is_a_gap_of_the_time_away_and_is_heard_again(icecast: Icecast) -> None:
    source = icecast.feed("/shaky", "mp3")
    back = threading.Event()

    def course(heard: Station) -> bool:
        if heard.seconds > 3 and source.poll() is None:
            icecast.drop(source)
        if "disconnected" in heard.reports and not back.is_set():
            back.set()
            threading.Timer(1.0, lambda: icecast.feed("/shaky", "aac", rate=48_000)).start()
        return bool(heard.gaps) and heard.audio[-1].epoch == 1

    heard = hear(icecast.url("/shaky"), course)
    [gap] = heard.gaps
    assert gap.cause == "closed" and 0.5 < gap.samples / 22_050 < 25
    assert heard.reasons == ["start", "reconnected"]
    assert heard.reports[:3] == ["chosen", "disconnected", "recovered"]


def test_a_fallback_mount_takes_over_without_a_break(icecast: Icecast) -> None:
    icecast.feed("/spare", "mp3")
    main = icecast.feed("/main", "mp3")

    def course(heard: Station) -> bool:
        if heard.seconds > 5 and main.poll() is None:
            icecast.drop(main)
            heard.dropped_at = heard.seconds  # type: ignore[attr-defined]
        return heard.seconds > getattr(heard, "dropped_at", 1e9) + 8

    heard = hear(icecast.url("/main"), course)
    assert heard.reports == ["chosen"]
    assert sum(gap.samples for gap in heard.gaps) < 22_050 // 2
