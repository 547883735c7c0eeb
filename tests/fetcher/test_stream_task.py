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

from services.contract import Event, Ledger
from services.errors import GenreError
from services.fetcher import stream_task
from services.fetcher.chunks import Cut
from services.fetcher.cursor import Cursor, Cursors
from services.fetcher.heard import Audio, Bookmark, Ended, EpochEnded, EpochStarted, Gap, Heard, Report, Track
from services.fetcher.stream_task import StreamTask
from services.settings import Fetcher, Settings, Stream
from tests.broker.mosquitto import wait_for

STREAM = Stream(name="radio", url="http://origin.example/list.m3u8")


def story(parts: list[tuple[str, int]]) -> list[Heard]:
    """Turn ("audio" | "gap" | "break", samples) into what a listener yields, in order."""
    items: list[Heard] = []
    epoch, position, start = -1, 0, -1
    for kind, samples in parts:
        if kind == "audio":
            if start < 0:
                epoch, start = epoch + 1, position
                items.append(EpochStarted(epoch, start, "test"))
            bookmark = Bookmark(epoch, start, position, {"item": len(items)})
            pcm = (np.arange(position, position + samples) % 30_011).astype(np.int16)
            items.append(Audio(epoch, position, pcm, 1000.0, None, bookmark))
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
    """Stands for the HLS side: tells a story from a bookmark on, and fails where it is told to."""

    items: list[Heard] = []  # noqa: RUF012  # one story a test
    fails_at: set[int] = set()  # noqa: RUF012

    def __init__(self, stream: Stream, hls: object, stop: threading.Event, resume: Bookmark | None) -> None:
        self._resume = resume

    def listen(self) -> Iterator[Heard]:
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
    """Stands for the courier: settles some chunks at once, keeps some, and stops the world at a given chunk."""

    def __init__(self, draw: random.Random, die_after: int) -> None:
        self._draw, self._die_after = draw, die_after
        self.kept: list[Callable[[str], None]] = []
        self.windows: dict[int, bytes] = {}
        self.sent = 0

    def send(self, cut: Cut, settle: Callable[[str], None], stop: threading.Event) -> None:
        self.sent += 1
        if self.sent > self._die_after:
            stop.set()
            return
        for i, first in enumerate(cut.stretch.first_samples()):
            at = i * cut.stretch.hop
            self.windows[first] = cut.pcm[at : at + 66_000].tobytes()
        if self._draw.random() < 0.6:
            settle("")
        else:
            self.kept.append(settle)

    def settle_all(self) -> None:
        self._draw.shuffle(self.kept)
        for settle in self.kept:
            settle("")
        self.kept.clear()

    def outstanding(self, stream: str) -> int:
        return len(self.kept)


def run_once(folder: Path, acks: Acks, told: list[Event], retry_failed_s: float = 0.01) -> Ledger:
    """One life of the task: from its cursor to the end, or to where the acks stop it; then save, as on kill."""
    config = Settings(fetcher=Fetcher(retry_failed_s=retry_failed_s))
    courier: Any = acks
    task = StreamTask(STREAM, config, courier, Cursors(folder), told.append)
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
    monkeypatch.setattr(stream_task, "Listener", Script)
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
    assert ledger == expected
    assert windows == undisturbed.windows


def test_a_stream_that_fails_for_good_has_all_it_heard_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_task, "Listener", Script)
    Script.items, Script.fails_at = story([("audio", 100_000), ("audio", 50_001), ("audio", 9)]), {3}
    told: list[Event] = []
    ledger = run_once(tmp_path, Acks(random.Random(1), 10**9), told, retry_failed_s=0)
    assert (ledger.timeline, ledger.classified, ledger.ended) == (150_001, 150_001, True)
    assert "went away" in ledger.failed
    assert [event.kind for event in told] == ["started", "error"]
    saved = Cursors(tmp_path).load("radio", STREAM.url)
    assert saved is not None and not saved.ledger.ended and saved.ledger.failed == "", "a restart tries it again"


def test_audio_that_the_hls_side_would_forget_is_counted_and_never_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_task, "Listener", Script)
    items = story([("audio", 100_000)])
    assert isinstance(items[-1], Ended)
    Script.items, Script.fails_at = [*items[:-1], Ended(items[-1].end_sample + 77, "ENDLIST")], set()
    ledger = run_once(tmp_path, Acks(random.Random(1), 10**9), [])
    assert ledger.lost == 77 and ledger.causes == {"unaccounted": 77} and ledger.adds_up


def test_a_gap_that_begins_before_the_frontier_is_told_as_long_as_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows reach beyond the bookmark, so what expired after a restart is partly classified already."""
    monkeypatch.setattr(stream_task, "Listener", Script)
    Cursors(tmp_path).save(
        STREAM.name,
        Cursor(
            STREAM.url,
            Ledger(stream=STREAM.name, timeline=100_000, classified=100_000, windows=2),
            Bookmark(0, 0, 60_000, {"item": 0}),
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
    monkeypatch.setattr(stream_task, "Listener", Script)
    items = story([("audio", 100_000)])
    extra = [Track(0, "Bl\x00ue \ud800", "\ufeffMonk"), Report("stalled", "nothing\nnew", {"seconds": 3.0})]
    Script.items, Script.fails_at = [items[0], *extra, *items[1:]], set()
    told: list[Event] = []
    run_once(tmp_path, Acks(random.Random(1), 10**9), told)
    track = next(event for event in told if event.kind == "track")
    assert (track.title, track.artist) == ("Bl ue", "Monk")
    assert next(event for event in told if event.kind == "report").cause == "stalled"
    for event in told:
        event.to_json()


def test_no_result_for_too_long_is_an_alarm_that_names_the_stage_and_ends_when_results_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_task, "Listener", Script)
    Script.items, Script.fails_at = story([("audio", 100_000)]), set()

    class Stuck(Acks):
        def send(self, cut: Cut, settle: Callable[[str], None], stop: threading.Event) -> None:
            self.kept.append(settle)

        def stuck_stage(self, stream: str) -> str:
            return "inference"

    courier: Any = Stuck(random.Random(1), 0)
    told: list[Event] = []
    config = Settings(fetcher=Fetcher(silent_after_s=0.2))
    task = StreamTask(STREAM, config, courier, Cursors(tmp_path), told.append)
    task.start()
    wait_for(lambda: task.watch_silence() == "inference", "the alarm")
    task.watch_silence()
    assert [event.stage for event in told if event.kind == "silent"] == ["inference"], "said once"
    courier.kept.pop()("")
    assert task.watch_silence() == ""
    assert told[-1].kind == "resumed"
