"""A clip is read as the service would read it, or refused in one line; its windows are the paper's."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.training.data.refusals import refused
from training.data import gtzan

RATE = 22_050


def write(path: Path, seconds: float = 3.0, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate)
    return path


def test_broken_files_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.au").write_bytes(b"no audio" * 500)
    (tmp_path / "c.wav").write_bytes(write(tmp_path / "whole.wav").read_bytes()[:30])
    write(tmp_path / "d.wav", 0.0)
    write(tmp_path / "e.wav", 0.5)
    soundfile.write(tmp_path / "f.wav", np.full(RATE * 2, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "g.flac", np.zeros((gtzan.LONGEST_S + 1) * 4_000, np.int16), 4_000)
    (tmp_path / "h.wav").mkdir()
    for name, word in {
        "a.wav": "can't be read", "b.au": "can't be read", "c.wav": "can't be read", "d.wav": "no samples",
        "e.wav": "less than one second", "f.wav": "not finite", "g.flac": "longer than", "h.wav": "is a folder",
        "none.wav": "is not there",
    }.items():  # fmt: skip
        refused(lambda name=name: gtzan.read(tmp_path / name), name, word)


def test_other_rates_and_stereo_become_mono_at_22050(tmp_path: Path) -> None:
    pcm = gtzan.read(write(tmp_path / "x.wav", 2.0, rate=44_100, channels=2))
    assert pcm.dtype == np.int16 and pcm.shape == (44_100,)
    assert np.abs(pcm[2_000:-2_000].astype(int)).max() == pytest.approx(0.25 * 32_768, rel=0.01)


def test_int16_samples_come_through_unchanged(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32_768, 32_767, 30_000, dtype=np.int16)
    for suffix in (".au", ".flac", ".wav"):
        soundfile.write(tmp_path / f"x{suffix}", samples, RATE, subtype="PCM_16")
        np.testing.assert_array_equal(gtzan.read(tmp_path / f"x{suffix}"), samples)


@pytest.mark.parametrize("samples", [660_000, 661_504, 661_794, 675_808])
def test_each_length_that_gtzan_has_gives_the_papers_19_windows(samples: int) -> None:
    pcm = np.arange(samples).astype(np.int16)
    dropped, covered = gtzan.windows(pcm, "dropped"), gtzan.windows(pcm)
    assert dropped.pcm.shape == (19, 66_000) and not dropped.padded
    assert len(covered.pcm) == 1 + -(-(samples - 66_000) // 33_000)
    np.testing.assert_array_equal(dropped.pcm[18], pcm[18 * 33_000 : 18 * 33_000 + 66_000])
    np.testing.assert_array_equal(covered.pcm[-1], pcm[-66_000:])


def test_a_piece_shorter_than_a_window_is_repeated_and_flagged() -> None:
    pcm = np.arange(30_000).astype(np.int16)
    for tail in ("dropped", "moved back"):
        short = gtzan.windows(pcm, tail)  # type: ignore[arg-type]
        assert short.padded and short.pcm.shape == (1, 66_000)
        np.testing.assert_array_equal(short.pcm[0, 30_000:60_000], pcm)
