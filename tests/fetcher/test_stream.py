"""One stream's thread: whatever it hears, and wherever it is killed, the ledger ends exact and the windows the same."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.contract.messages import Event, Ledger
from services.errors import GenreError
from services.fetcher import stream
from services.fetcher.delivery.checkpoint import Checkpoint, Checkpoints
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.events import (
    Audio,
    Ended,
    EpochEnded,
    EpochStarted,
    Gap,
    Report,
    ResumePoint,
    Start,
    StreamEvent,
    Track,
)
from services.fetcher.stream import StreamTask
from services.settings.schema import Fetcher, Hls, Settings, Stream
from tests.broker.mosquitto import wait_for

STREAM = Stream(name="radio", url="http://origin.example/list.m3u8")


def story(parts: list[tuple[str, int]]) -> list[StreamEvent]:
    """Turn ("audio" | "gap" | "break", samples) into what a listener yields, in order."""
    items: list[StreamEvent] = []
    epoch, position, start = -1, 0, -1
    for kind, samples in parts:
        if kind == "audio":
            if start < 0:
                epoch, start = epoch + 1, position
                items.append(EpochStarted(epoch, start, "test"))
            resume_point = ResumePoint(epoch, start, position, {"item": len(items)})
            pcm = (np.arange(position, position + samples) % 30_011).astype(np.int16)
            items.append(Audio(epoch, position, pcm, 1000.0, None, resume_point))
            position += samples
            continue
        if start >= 0:
            items.append(EpochEnded(epoch, position))
            start = -1
        if kind == "gap":
            items.append(Gap(position, samples, "http-404", "not there"))
            position += samples
    if start >= 0:
        items.append(EpochEnded(epoch, position))
    return [*items, Ended(position, "ENDLIST")]


class Script:
    """Stands for the HLS side: tells a story from a resume point on, and fails where it is told to."""

    items: list[StreamEvent] = []  # noqa: RUF012  # one story a test
    fails_at: set[int] = set()  # noqa: RUF012

    def __init__(self, stream: Stream, hls: object, stop: threading.Event, start: Start) -> None:
        self._resume = start.resume_point

    def listen(self) -> Iterator[StreamEvent]:
        first = 0
        if self._resume is not None:
            first = int(self._resume.place["item"])  # type: ignore[call-overload]
            yield EpochStarted(self._resume.epoch, self._resume.epoch_first_sample, "resumed")
        for number in range(first, len(self.items)):
            if number in self.fails_at:
                self.fails_at.discard(number)
                raise GenreError("origin.example", "went away", "wait")
            yield self.items[number]

    def close(self) -> None:
        pass


class Acks:
    """Stands for the chunk sender: settles some chunks at once, keeps some, and stops the world at a given chunk."""

    def __init__(self, draw: random.Random, die_after: int) -> None:
        self._draw, self._die_after = draw, die_after
        self.reply_to = "genre/acks/1"
        self.settled: Callable[[InFlightChunk, None], None] = lambda in_flight, outcome: None
        self.kept: list[InFlightChunk] = []
        self.windows: dict[int, bytes] = {}
        self.sent = 0

    def send(self, in_flight: InFlightChunk, stop: threading.Event) -> None:
        self.sent += 1
        if self.sent > self._die_after:
            stop.set()
            return
        header = in_flight.chunk.header
        for i, first in enumerate(header.first_samples()):
            at = i * header.hop
            self.windows[first] = in_flight.chunk.pcm[at : at + 66_000].tobytes()
        if self._draw.random() < 0.6:
            self.settled(in_flight, None)
        else:
            self.kept.append(in_flight)

    def settle_all(self) -> None:
        self._draw.shuffle(self.kept)
        for in_flight in self.kept:
            self.settled(in_flight, None)
        self.kept.clear()

    def outstanding(self, stream: str) -> int:
        return len(self.kept)


def run_once(folder: Path, acks: Acks, told: list[Event], retry_failed_s: float = 0.01) -> Ledger:
    """One life of the task: from its cursor to the end, or to where the acks stop it; then save, as on kill."""
    config = Settings(fetcher=Fetcher(retry_failed_s=retry_failed_s), hls=Hls(ended_reload_s=0))
    sender: Any = acks
    task = StreamTask(STREAM, config, sender, Checkpoints(folder), told.append)
    acks.settled = task.settled
    task.start()
    wait_for(lambda: not task.alive, "the story's end")
    if not task.stop.is_set():
        acks.settle_all()
    task.save()
    return task.ledger


PARTS = st.lists(
    st.tuples(st.sampled_from(["audio", "audio", "audio", "gap", "break"]), st.integers(1, 200_000)),
    min_size=1,
    max_size=14,
).map(lambda parts: [("audio", 70_000), *parts])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=PARTS, seed=st.integers(0, 2**20), failures=st.sets(st.integers(0, 20), max_size=3))
def test_kills_and_failures_change_no_window_and_no_sample(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    parts: list[tuple[str, int]],
    seed: int,
    failures: set[int],
) -> None:
    monkeypatch.setattr(stream, "StreamSource", Script)
    draw = random.Random(seed)
    Script.items, Script.fails_at = story(parts), set()
    undisturbed = Acks(draw, 10**9)
    expected = run_once(tmp_path_factory.mktemp("a"), undisturbed, [])
    assert expected.ended and expected.adds_up and expected.lost == 0 and expected.in_flight == 0
    end = Script.items[-1]
    assert isinstance(end, Ended) and expected.timeline == end.end_sample
    assert expected.gap == sum(item.samples for item in Script.items if isinstance(item, Gap))

    Script.fails_at = set(failures)
    folder, windows = tmp_path_factory.mktemp("b"), dict[int, bytes]()
    told: list[Event] = []
    for life in range(50):
        acks = Acks(draw, draw.randrange(1, 6) if life < 40 else 10**9)
        ledger = run_once(folder, acks, told)
        windows |= acks.windows
        assert ledger.adds_up
        if ledger.ended:
            break
    assert ledger.model_copy(update={"timeline_id": expected.timeline_id}) == expected
    assert windows == undisturbed.windows


def test_a_stream_that_fails_for_good_has_all_it_heard_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "StreamSource", Script)
    Script.items, Script.fails_at = story([("audio", 100_000), ("audio", 50_001), ("audio", 9)]), {3}
    told: list[Event] = []
    ledger = run_once(tmp_path, Acks(random.Random(1), 10**9), told, retry_failed_s=0)
    assert (ledger.timeline, ledger.classified, ledger.ended) == (150_001, 150_001, True)
    assert "went away" in ledger.failed
    assert [event.kind for event in told] == ["started", "error"]
    saved = Checkpoints(tmp_path).load("radio", STREAM.url)
    assert saved is not None and not saved.ledger.ended and saved.ledger.failed == "", "a restart tries it again"


def test_audio_that_the_hls_side_would_forget_is_counted_and_never_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "StreamSource", Script)
    items = story([("audio", 100_000)])
    assert isinstance(items[-1], Ended)
    Script.items, Script.fails_at = [*items[:-1], Ended(items[-1].end_sample + 77, "ENDLIST")], set()
    ledger = run_once(tmp_path, Acks(random.Random(1), 10**9), [])
    assert ledger.lost == 77 and ledger.causes == {"unaccounted": 77} and ledger.adds_up


def test_a_gap_that_begins_before_the_frontier_is_told_as_long_as_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows reach beyond the resume point, so what expired after a restart is partly classified already."""
    monkeypatch.setattr(stream, "StreamSource", Script)
    Checkpoints(tmp_path).save(
        STREAM.name,
        Checkpoint(
            STREAM.url,
            Ledger(stream=STREAM.name, timeline=100_000, classified=100_000, windows=2),
            ResumePoint(0, 0, 60_000, {"item": 0}),
        ),
    )
    Script.items, Script.fails_at = (
        [EpochEnded(0, 60_000), Gap(60_000, 62_050, "expired", "gone"), Ended(122_050, "x")],
        set(),
    )
    told: list[Event] = []
    ledger = run_once(tmp_path, Acks(random.Random(0), 100), told)
    assert (ledger.timeline, ledger.gap, ledger.causes) == (122_050, 22_050, {"expired": 22_050})
    (gap,) = [event for event in told if event.kind == "gap"]
    assert (gap.seconds, gap.start_s) == (1.0, round(100_000 / 22_050, 3))


def test_titles_and_reports_become_events_that_are_harmless_to_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "StreamSource", Script)
    items = story([("audio", 100_000)])
    extra = [Track(0, "Bl\x00ue \ud800", "\ufeffMonk"), Report("stalled", "nothing\nnew", {"seconds": 3.0})]
    Script.items, Script.fails_at = [items[0], *extra, *items[1:]], set()
    told: list[Event] = []
    run_once(tmp_path, Acks(random.Random(1), 10**9), told)
    track = next(event for event in told if event.kind == "track")
    assert (track.title, track.artist) == ("Bl ue \ufffd", "Monk")
    assert next(event for event in told if event.kind == "report").cause == "stalled"
    for event in told:
        event.to_json()


def test_no_result_for_too_long_is_an_alarm_that_names_the_stage_and_ends_when_results_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "StreamSource", Script)
    Script.items, Script.fails_at = story([("audio", 100_000)]), set()

    class Stuck(Acks):
        def send(self, in_flight: InFlightChunk, stop: threading.Event) -> None:
            self.kept.append(in_flight)

        def stuck_stage(self, stream: str) -> str:
            return "inference"

    sender: Any = Stuck(random.Random(1), 0)
    told: list[Event] = []
    config = Settings(fetcher=Fetcher(silent_after_s=0.2))
    task = StreamTask(STREAM, config, sender, Checkpoints(tmp_path), told.append)
    task.start()
    wait_for(lambda: task.watch_silence() == "inference", "the alarm")
    task.watch_silence()
    assert [event.stage for event in told if event.kind == "silent"] == ["inference"], "said once"
    task.settled(sender.kept.pop(), None)
    assert task.watch_silence() == ""
    assert told[-1].kind == "resumed"
