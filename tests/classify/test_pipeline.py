from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.classify.audio_file import Heard
from services.classify.decode import pieces
from services.classify.pipeline import Pipeline, windowed
from services.contract.windows import WINDOW, cut, starts
from services.errors import GenreError

MODELS = Path(__file__).resolve().parents[2] / "models"


def noise(seconds: float, rate: int = 22_050, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate)).astype(np.float32)


def wav(folder: Path, seconds: float, rate: int = 22_050, name: str = "a.wav") -> Path:
    path = folder / name
    soundfile.write(path, noise(seconds, rate), rate)
    return path


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(MODELS, "genre-sounds")


@pytest.mark.parametrize("samples", [0, 22_049, 22_050, 65_999, 66_000, 66_001, 99_000, 99_001, 132_000, 700_123])
@pytest.mark.parametrize("piece", [1_000, 50_000, 1_000_000])
def test_windows_of_pieces_are_the_windows_of_the_whole(samples: int, piece: int) -> None:
    audio = np.random.default_rng(samples).integers(-9000, 9000, samples, dtype=np.int16)
    parts = (audio[i : i + piece] for i in range(0, samples, piece))
    found = list(windowed(parts))
    assert [first for first, _, _ in found] == starts(samples)
    expected = cut(audio)
    assert all((window == right).all() for (_, _, window), right in zip(found, expected, strict=True))


def test_a_long_file_takes_no_more_memory_than_a_short_one() -> None:
    def audio(seconds: int) -> Iterator[np.ndarray]:
        for _ in range(seconds):
            yield np.zeros(22_050, np.int16)

    def peak(seconds: int) -> int:
        tracemalloc.start()
        for _ in windowed(audio(seconds)):
            pass
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(3_600) < peak(30) + 1_000_000


def test_a_file_is_resampled_and_keeps_its_length(tmp_path: Path) -> None:
    for rate in (8_000, 44_100, 48_000):
        total = sum(piece.size for piece in pieces(wav(tmp_path, 5.0, rate), Heard()))
        assert abs(total - 5 * 22_050) <= 2, rate


def test_a_clip_of_thirty_seconds_has_nineteen_windows_and_one_verdict(pipeline: Pipeline, tmp_path: Path) -> None:
    found = pipeline.classify(wav(tmp_path, 30.0))
    assert len(found.windows) == 20 - 1 or len(found.windows) == len(starts(30 * 22_050))
    assert found.verdict is not None and (found.verdict.kind, found.verdict.genre) == ("other", None)  # it is noise
    assert found.windows[-1].end_s == pytest.approx(30.0)


def test_silence_has_no_genre(pipeline: Pipeline, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(22_050 * 5), 22_050)
    found = pipeline.classify(tmp_path / "quiet.wav")
    assert found.verdict is not None and found.verdict.kind == "silence" and found.verdict.genre is None


def test_a_clip_shorter_than_a_window_is_repeated_and_a_shorter_one_refused(pipeline: Pipeline, tmp_path: Path) -> None:
    found = pipeline.classify(wav(tmp_path, 1.5))
    assert len(found.windows) == 1 and found.windows[0].end_s == pytest.approx(1.5)
    with pytest.raises(GenreError, match="too short"):
        pipeline.classify(wav(tmp_path, 0.5))


def test_what_is_no_audio_is_told_in_one_line(pipeline: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_text("not audio at all\n" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    for name in ("text.mp3", "empty.wav", "missing.wav", ".", "list.m3u8"):
        with pytest.raises(GenreError) as error:
            pipeline.classify(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_damaged_file_gives_what_can_be_heard_of_it(pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(20), 22_050, format="FLAC")
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 3_000] = b"\x00" * 3_000
    path.write_bytes(whole)
    found = pipeline.classify(path)
    assert found.verdict is not None and found.seconds > 10
    path.write_bytes(whole[: len(whole) // 3])
    assert pipeline.classify(path).seconds > 4


def test_two_windows_of_the_same_audio_get_the_same_scores_wherever_they_lie(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    twice = np.concatenate([noise(WINDOW / 22_050), noise(WINDOW / 22_050)])
    soundfile.write(tmp_path / "twice.wav", twice, 22_050, subtype="PCM_16")
    windows = pipeline.classify(tmp_path / "twice.wav").windows
    assert windows[0].verdict.scores == windows[-1].verdict.scores
