"""Chunks: every sample of an epoch in some window, each counted once, and the same ids from any resume point."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.contract.chunks import MAX_PAYLOAD_BYTES
from services.contract.windows import WINDOW
from services.fetcher.delivery.in_flight import InFlightChunk
from services.fetcher.delivery.windower import SHORTEST, Short, Windower
from services.fetcher.events import Audio, EpochStarted, ResumePoint, Track

PIECES = st.lists(st.integers(1, 150_000), min_size=1, max_size=12)
HOPS = st.sampled_from([16_500, 33_000, 50_001, 66_000])


def pcm_of(first: int, size: int) -> np.ndarray:
    """Samples that tell their own position."""
    return (np.arange(first, first + size) % 65_521 - 32_760).astype(np.int16)


def audio(first: int, size: int, epoch: int = 0, epoch_first: int = 0, *, live: bool = False) -> Audio:
    return Audio(
        epoch=epoch,
        first_sample=first,
        pcm=pcm_of(first, size),
        received_at=1000.0 + first / 22_050,
        observed_at=None,
        resume_point=ResumePoint(epoch, epoch_first, first, {"sequence": first}),
        live=live,
    )


def cut_epoch(
    windower: Windower, sizes: Iterable[int], start: int = 0, from_sample: int | None = None
) -> list[InFlightChunk | Short]:
    """Play one epoch; pieces before from_sample are not heard again."""
    windower.start(EpochStarted(0, start, "test"))
    out: list[InFlightChunk | Short] = []
    position = start
    for size in sizes:
        if from_sample is None or position >= from_sample:
            out += windower.audio(audio(position, size, epoch_first=start))
        position += size
    last = windower.finish(position)
    return out if last is None else [*out, last]


def windows_of(cuts: Iterable[InFlightChunk | Short]) -> dict[int, bytes]:
    """Window's first sample -> its samples."""
    found: dict[int, bytes] = {}
    for cut in cuts:
        if isinstance(cut, InFlightChunk):
            for i, first in enumerate(cut.chunk.header.first_samples()):
                at = i * cut.chunk.header.hop
                found[first] = cut.chunk.pcm[at : at + WINDOW].tobytes()
    return found


@settings(max_examples=150, deadline=None)
@given(sizes=PIECES, hop=HOPS, most=st.integers(1, 4), start=st.sampled_from([0, 1, 987_654]))
def test_windows_cover_every_sample_and_the_ledger_counts_each_once(
    sizes: list[int], hop: int, most: int, start: int
) -> None:
    cuts = cut_epoch(Windower("radio", hop, most), sizes, start)
    total = sum(sizes)
    assert sum(cut.samples if isinstance(cut, Short) else cut.covers for cut in cuts) == total
    if total < SHORTEST:
        assert cuts == [Short(total)]
        return
    windows = windows_of(cuts)
    if total >= WINDOW:
        covered = np.zeros(total, bool)
        for first, samples in windows.items():
            covered[first - start : first - start + WINDOW] = True
            assert samples == pcm_of(first, WINDOW).tobytes()
        assert covered.all()
    for cut in cuts:
        assert isinstance(cut, InFlightChunk)
        assert cut.chunk.header.windows <= most and cut.chunk.pcm.nbytes < MAX_PAYLOAD_BYTES
        assert cut.chunk.pcm.size == cut.chunk.header.samples


@settings(max_examples=100, deadline=None)
@given(samples=st.integers(WINDOW, 40 * 33_000), hop=HOPS)
def test_an_epoch_has_one_plus_ceil_windows_and_the_last_ends_with_the_audio(samples: int, hop: int) -> None:
    windows = windows_of(cut_epoch(Windower("radio", hop, 4), [samples]))
    assert len(windows) == 1 + -(-(samples - WINDOW) // hop)
    assert max(windows) == samples - WINDOW


def test_a_thirty_second_clip_has_the_papers_nineteen_windows() -> None:
    assert len(windows_of(cut_epoch(Windower("clip", 33_000, 4), [661_500]))) == 20
    assert len(windows_of(cut_epoch(Windower("clip", 33_000, 4), [660_000]))) == 19


@pytest.mark.parametrize("samples", [SHORTEST, SHORTEST + 1, WINDOW // 2, WINDOW - 1])
def test_an_epoch_shorter_than_a_window_is_repeated_and_flagged(samples: int) -> None:
    (cut,) = cut_epoch(Windower("clip", 33_000, 4), [samples])
    assert isinstance(cut, InFlightChunk)
    assert cut.covers == samples and cut.chunk.header.padded and cut.chunk.header.filled_from == samples
    assert cut.chunk.pcm.size == WINDOW
    assert (cut.chunk.pcm[:samples] == cut.chunk.pcm[samples : 2 * samples][:samples]).all() or 2 * samples > WINDOW


@settings(max_examples=150, deadline=None)
@given(sizes=PIECES, hop=HOPS, most=st.integers(1, 4), data=st.data())
def test_resume_from_any_frontier_gives_the_windows_that_were_left_and_no_others(
    sizes: list[int], hop: int, most: int, data: st.DataObject
) -> None:
    whole = cut_epoch(Windower("radio", hop, most), sizes)
    done = data.draw(st.integers(0, len(whole)), label="chunks acked before the crash")
    frontier = sum(cut.samples if isinstance(cut, Short) else cut.covers for cut in whole[:done])
    last = whole[done - 1] if done else None
    resume_point = last.resume_point.first_sample if isinstance(last, InFlightChunk) else 0
    rest = cut_epoch(Windower("radio", hop, most, frontier), sizes, from_sample=resume_point)
    before, after = windows_of(whole[:done]), windows_of(rest)
    assert {**before, **after} == windows_of(whole)
    assert not set(before) & set(after)
    covers = sum(cut.samples if isinstance(cut, Short) else cut.covers for cut in rest)
    assert covers == sum(sizes) - frontier


@settings(max_examples=60, deadline=None)
@given(sizes=PIECES, others=PIECES, hop=HOPS)
def test_borders_of_segments_change_no_window(sizes: list[int], others: list[int], hop: int) -> None:
    total = sum(sizes)
    again: list[int] = []
    for size in others:
        again.append(min(size, total - sum(again)))
    again = [size for size in [*again, total - sum(again)] if size > 0]
    assert windows_of(cut_epoch(Windower("r", hop, 4), sizes)) == windows_of(cut_epoch(Windower("r", hop, 2), again))


def test_a_chunk_belongs_to_one_track_and_hostile_titles_are_made_harmless() -> None:
    windower = Windower("radio", 33_000, 4)
    windower.start(EpochStarted(0, 0, "test"))
    windower.track(Track(0, "One\x00\ufeff", "a\ud800b"))
    windower.track(Track(99_000, "Two" * 1000, ""))
    cuts = windower.audio(audio(0, 200_000))
    assert [cut.chunk.header.title[:3] for cut in cuts] == ["One", "Two"]
    assert cuts[0].chunk.header.artist == "a\ufffdb" and len(cuts[1].chunk.header.title) == 512
    assert [cut.chunk.header.windows for cut in cuts] == [2, 3]


def test_wall_clock_of_a_window_comes_from_program_date_time() -> None:
    windower = Windower("radio", 33_000, 1)
    windower.start(EpochStarted(3, 500, "test"))
    piece = Audio(3, 500, pcm_of(0, 100_000), 2000.0, 1500.0, ResumePoint(3, 500, 500), True)
    cuts = windower.audio(piece)
    assert [cut.chunk.header.observed_at for cut in cuts] == [1500.0, round(1500 + 33_000 / 22_050, 3)]
    assert all(cut.live and cut.chunk.header.received_at == 2000.0 for cut in cuts)


def test_audio_that_does_not_follow_is_refused() -> None:
    windower = Windower("radio", 33_000, 4)
    windower.start(EpochStarted(0, 0, "test"))
    windower.audio(audio(0, 1000))
    with pytest.raises(ValueError, match="does not follow"):
        windower.audio(audio(1001, 1000))


def test_memory_is_bounded_over_a_long_epoch() -> None:
    windower = Windower("radio", 33_000, 4)
    windower.start(EpochStarted(0, 0, "test"))
    for i in range(300):
        windower.audio(audio(i * 20_000, 20_000))
    assert sum(piece.pcm.size for piece in windower._pieces) < 3 * WINDOW
