"""Back-pressure: however long the consumer takes, nothing is concluded from it, and every second is in a column."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from services.fetcher.events import Audio, Ended, EpochStarted, Gap
from services.fetcher.hls.stopwatch import Stopwatch
from tests.fetcher.builders import Listened, listener, media_playlist, needs_ffmpeg
from tests.fetcher.origin import ScriptedOrigin

pytestmark = needs_ffmpeg


@dataclass
class Clock:
    """Stands for time.monotonic: real time, and the hours that the consumer takes."""

    ahead: float = 0.0

    def __call__(self, real: Callable[[], float] = time.monotonic) -> float:
        return real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


def names(folder: Any) -> list[str]:
    return [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]


@pytest.mark.parametrize("kind", ["VOD", "EVENT", ""])
def test_a_stream_waits_an_hour_for_its_consumer_and_loses_nothing(
    kind: str, made: Any, origin: ScriptedOrigin, clock: Clock
) -> None:
    """Broker or featurizer away: credits are used up, and the reader stands still in its yield."""
    folder = made("ts-aac", seconds=16.0)
    origin.serve(folder)
    head = f"#EXT-X-PLAYLIST-TYPE:{kind}" if kind else ""
    text = media_playlist(names(folder), head=head, end=kind != "EVENT", target=0.1)
    origin.put("/list.m3u8", text)
    one = listener(origin.url("/list.m3u8"), dead_after_s=2.0, shortest_reload_s=0.02)
    heard = Listened()
    for item in one.listen():
        heard.items.append(item)
        if isinstance(item, Audio):
            clock.ahead += 3_600.0
        if kind == "EVENT" and len(heard.audio) == len(names(folder)):
            origin.put("/list.m3u8", text + "#EXT-X-ENDLIST\n")
    one.close()
    heard.check_ledger()
    assert not heard.gaps and heard.ended is not None and heard.reasons == ["start"]


def test_the_time_of_a_consumer_is_no_silence(clock: Clock) -> None:
    watch = Stopwatch()
    clock.ahead += 10.0
    watch.leave_out(9.0)
    assert 1.0 <= watch.seconds < 2.0
    watch.leave_out(1e9)
    assert 0.0 <= watch.seconds < 1.0, "never negative, whatever is left out"


def test_coming_back_to_a_long_list_far_behind_puts_the_skipped_stretch_in_a_gap(
    made: Any, origin: ScriptedOrigin
) -> None:
    """A DVR list that still holds the place it was left at, further behind than a live stream may be."""
    folder = made("ts-aac", seconds=60.0)
    origin.serve(folder)
    listed = names(folder)
    origin.put("/list.m3u8", media_playlist(listed[:5], end=False))
    one = listener(origin.url("/list.m3u8"), live_start_targets=60.0)
    first = next(item for item in one.listen() if isinstance(item, Audio) and item.resume_point.place["segment"] == 2)
    one.close()
    origin.put("/list.m3u8", media_playlist(listed[:28], end=False))
    back = listener(origin.url("/list.m3u8"), resume=first.resume_point, live_behind_limit_s=20.0)
    heard = Listened()
    for item in back.listen():
        heard.items.append(item)
        if len(heard.audio) == 2:
            break
    back.close()
    started = [item for item in heard.items if isinstance(item, EpochStarted)]
    (gap,) = heard.gaps
    audio = heard.audio[0]
    assert gap.cause == "behind" and gap.first_sample == first.first_sample
    assert audio.first_sample == gap.first_sample + gap.samples and audio.epoch == started[-1].epoch == 1
    segment = audio.resume_point.place["segment"]
    assert segment == 25, "three target durations before the end"
    expected = (25 - 2) * 2.0
    assert abs(gap.samples / 22_050 - expected) < 0.2, "as long as what was passed over, by its timestamps"
    assert not any(isinstance(item, (Ended, Gap)) for item in heard.items if item is not gap)
