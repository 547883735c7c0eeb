"""A resume point is enough to go on after kill -9: same epochs, same positions, same samples."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.fetcher.events import ResumePoint
from tests.fetcher.builders import Listened, listen, media_playlist, needs_ffmpeg
from tests.fetcher.origin import ScriptedOrigin

pytestmark = needs_ffmpeg


def through_json(resume_point: ResumePoint) -> ResumePoint:
    """Return the resume point as it comes back from a file."""
    return replace(resume_point, place=json.loads(json.dumps(dict(resume_point.place))))


def names_in(folder: Path) -> list[str]:
    lines = (folder / "list.m3u8").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def assert_resumes(url: str, whole: Listened, resume_point: ResumePoint, **changes: Any) -> None:
    """Resumed samples == undisturbed samples, with the same epochs and positions."""
    again = listen(url, resume=through_json(resume_point), **changes)
    started = [item for item in again.items if type(item).__name__ == "EpochStarted"]
    assert (started[0].epoch, started[0].first_sample, started[0].reason) == (
        resume_point.epoch,
        resume_point.epoch_first_sample,
        "resumed",
    )
    expected = [item for item in whole.audio if item.first_sample >= resume_point.first_sample]
    assert again.audio[0].first_sample == resume_point.first_sample
    for epoch in {item.epoch for item in expected}:
        undisturbed = np.concatenate([item.pcm for item in expected if item.epoch == epoch])
        assert np.array_equal(again.pcm(epoch), undisturbed)
    assert again.ended == whole.ended
    assert [g for g in whole.gaps if g.first_sample >= resume_point.first_sample] == again.gaps


@pytest.mark.parametrize("name", ["ts-aac", "ts-aac-48k", "ts-mp3", "fmp4-aac", "packed-mp3", "ts-ac3", "fmp4-opus"])
def test_vod_resumes_bit_identical_from_any_resume_point(name: str, made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made(name))
    url = origin.url("/list.m3u8")
    whole = listen(url)
    for item in random.Random(name).sample(whole.audio, 3):
        assert_resumes(url, whole, item.resume_point)


def test_vod_with_gaps_and_discontinuities_resumes_in_every_epoch(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"), "/a/")
    origin.serve(made("ts-mp3"), "/b/")
    a = [f"a/{name}" for name in names_in(made("ts-aac"))]
    b = [f"b/{name}" for name in names_in(made("ts-mp3"))]
    names = [a[0], a[1], "gone.ts", a[3], b[0], b[1], a[0], a[1]]
    before = {4: "#EXT-X-DISCONTINUITY", 6: "#EXT-X-DISCONTINUITY"}
    origin.put("/list.m3u8", media_playlist(names, before=before))
    url = origin.url("/list.m3u8")
    whole = listen(url)
    assert whole.reasons == ["start", "gap", "discontinuity", "discontinuity"] and len(whole.gaps) == 1
    for item in whole.audio:
        assert_resumes(url, whole, item.resume_point)


def test_resuming_in_the_middle_of_a_piece_gives_the_rest_of_it(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"))
    url = origin.url("/list.m3u8")
    whole = listen(url)
    resume_point = replace(whole.audio[1].resume_point, first_sample=whole.audio[1].first_sample + 12_345)
    again = listen(url, resume=through_json(resume_point))
    assert np.array_equal(again.pcm(), whole.pcm()[resume_point.first_sample :])


def test_a_resume_point_at_the_very_end_only_ends(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"))
    url = origin.url("/list.m3u8")
    whole = listen(url)
    assert whole.ended is not None
    again = listen(url, resume=replace(whole.audio[-1].resume_point, first_sample=whole.ended.end_sample))
    assert not again.audio and again.ended == whole.ended and again.reasons == ["resumed"]


@pytest.mark.parametrize("name", ["ts-mp3", "ts-ac3", "packed-aac", "fmp4-aac-plain", "ts-aac-plain"])
def test_live_resumes_with_a_run_up_where_the_epochs_start_has_left_the_list(
    name: str, made: Any, origin: ScriptedOrigin
) -> None:
    folder = made(name, seconds=16.0)
    origin.serve(folder)
    names = names_in(folder)
    head = '#EXT-X-MAP:URI="init.mp4"' if (folder / "init.mp4").exists() else ""
    origin.put("/list.m3u8", media_playlist(names, head=head))
    whole = listen(origin.url("/list.m3u8"))
    origin.put("/list.m3u8", media_playlist(names[3:], first=3, head=head))
    resume_point = next(item.resume_point for item in whole.audio if item.resume_point.place["segment"] == 5)
    again = listen(origin.url("/list.m3u8"), resume=through_json(resume_point))
    ours, theirs = again.pcm().astype(np.int32), whole.pcm()[resume_point.first_sample :].astype(np.int32)
    assert again.audio[0].first_sample == resume_point.first_sample and again.ended == whole.ended
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1 and np.count_nonzero(ours != theirs) <= 1e-4 * len(ours)


def test_expired_segments_become_a_gap_between_the_old_epoch_and_a_new_one(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac", seconds=16.0)
    origin.serve(folder)
    names = names_in(folder)
    origin.put("/list.m3u8", media_playlist(names))
    whole = listen(origin.url("/list.m3u8"))
    resume_point = next(item.resume_point for item in whole.audio if item.resume_point.place["segment"] == 2)
    origin.put("/list.m3u8", media_playlist(names[6:], first=6))
    again = listen(origin.url("/list.m3u8"), resume=through_json(resume_point))
    assert again.reasons == ["resumed", "gap"]
    assert [gap.cause for gap in again.gaps] == ["expired"]
    # By the timestamps: exactly from the resume point to where segment 6 begins.
    begin = again.audio[0].first_sample
    undisturbed = next(i for i in whole.audio if i.resume_point.place["segment"] == 6)
    assert abs(begin - undisturbed.first_sample) < 1_500
    assert again.audio[0].epoch == resume_point.epoch + 1


def test_a_segment_that_is_missing_now_becomes_a_gap_not_a_lie(made: Any, origin: ScriptedOrigin) -> None:
    origin.serve(made("ts-aac"))
    url = origin.url("/list.m3u8")
    whole = listen(url)
    resume_point = whole.audio[-2].resume_point
    gone = names_in(made("ts-aac"))[int(str(resume_point.place["segment"]))]
    origin.put("/" + gone, b"")
    again = listen(url, resume=through_json(resume_point))
    # What the resampler still held of the segment before may be heard first.
    assert again.reasons[0] == "resumed" and again.gaps[0].cause == "empty"
    assert 0 <= again.gaps[0].first_sample - resume_point.first_sample < 1_000


@pytest.mark.parametrize(
    "place",
    [
        {},
        {"entries": "x"},
        {"entries": [[1, 2, 3, 4]], "segment": "y"},
        {"entries": [["a"]], "segment": -5, "pts_s": "z"},
    ],
)
def test_a_resume_point_that_was_tampered_with_costs_a_new_epoch_and_no_crash(
    place: dict[str, object], made: Any, origin: ScriptedOrigin
) -> None:
    origin.serve(made("ts-aac"))
    again = listen(origin.url("/list.m3u8"), resume=ResumePoint(3, 1_000, 5_000, place))
    assert again.reasons[0] == "resumed" and again.ended is not None
    assert again.audio[0].epoch == 4
