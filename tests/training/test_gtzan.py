"""A GTZAN folder is read whole or refused in one line; what is broken is named and left out."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from services.errors import GenreError
from tests.shared_data import shared
from training import gtzan

RATE = 22_050


def write(path: Path, seconds: float = 3.0, rate: int = RATE, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1), rate)
    return path


def refused(call: object, *words: str) -> None:
    with pytest.raises(GenreError) as caught:
        call()  # type: ignore[operator]
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert word in text


@pytest.mark.parametrize("suffix", gtzan.SUFFIXES)
@pytest.mark.parametrize("inner", ["", *gtzan.INNER])
def test_clips_are_found_in_each_format_and_each_usual_layout(tmp_path: Path, suffix: str, inner: str) -> None:
    write(tmp_path / inner / "blues" / f"blues.00000{suffix}")
    write(tmp_path / inner / "rock" / f"rock.00001{suffix}")
    clips, skipped = gtzan.find(tmp_path)
    assert [(clip.name, clip.genre, clip.label) for clip in clips] == [
        ("blues.00000", "blues", 0),
        ("rock.00001", "rock", 9),
    ]
    assert not skipped
    assert gtzan.read(clips[0].path).shape == (66_150,)


def test_a_clip_in_two_formats_is_taken_once(tmp_path: Path) -> None:
    write(tmp_path / "jazz" / "jazz.00000.au")
    write(tmp_path / "jazz" / "jazz.00000.wav")
    clips, skipped = gtzan.find(tmp_path)
    assert len(clips) == 1
    assert skipped == [gtzan.Skipped("jazz/jazz.00000.wav", "repeats the clip jazz.00000")]


def test_a_missing_folder_an_empty_one_and_an_unknown_genre_are_one_line_each(tmp_path: Path) -> None:
    refused(lambda: gtzan.find(tmp_path / "no"), "is no folder")
    refused(lambda: gtzan.find(tmp_path), "holds no audio", "blues/")
    (tmp_path / "metal").mkdir()
    (tmp_path / "metal" / "notes.txt").write_text("x")
    refused(lambda: gtzan.find(tmp_path), "holds no audio")
    write(tmp_path / "polka" / "polka.00000.wav")
    refused(lambda: gtzan.find(tmp_path), "polka", "is no genre of GTZAN")


def test_broken_files_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"")
    (tmp_path / "b.au").write_bytes(b"no audio" * 500)
    (tmp_path / "c.wav").write_bytes(write(tmp_path / "whole.wav").read_bytes()[:30])
    write(tmp_path / "d.wav", 0.0)
    write(tmp_path / "e.wav", 0.5)
    soundfile.write(tmp_path / "f.wav", np.full(RATE * 2, np.nan, np.float32), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "g.flac", np.zeros((gtzan.LONGEST_S + 1) * 100, np.int16), 100)
    (tmp_path / "h.wav").mkdir()
    for name, word in {
        "a.wav": "can't be read", "b.au": "can't be read", "c.wav": "can't be read", "d.wav": "no samples",
        "e.wav": "less than one second", "f.wav": "not finite", "g.flac": "longer than", "h.wav": "can't be read",
        "none.wav": "can't be read",
    }.items():  # fmt: skip
        refused(lambda name=name: gtzan.read(tmp_path / name), name, word)


def test_other_rates_and_stereo_become_mono_at_22050(tmp_path: Path) -> None:
    pcm = gtzan.read(write(tmp_path / "x.wav", 2.0, rate=44_100, channels=2))
    assert pcm.dtype == np.int16 and pcm.shape == (44_100,)
    assert np.abs(pcm[2_000:-2_000].astype(int)).max() == pytest.approx(0.25 * 32_768, rel=0.01)


def test_int16_samples_come_through_unchanged(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32_768, 32_767, 30_000, dtype=np.int16)
    for suffix in gtzan.SUFFIXES:
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


def test_an_index_names_files_and_genres(tmp_path: Path) -> None:
    index = tmp_path / "index.csv"
    index.write_text("\ufefffile,genre,artist,more\na/x.wav,rock,Queen,1\nb/x.wav,jazz,,\n", encoding="utf-8")
    clips = gtzan.from_index(tmp_path, index)
    assert [(clip.name, clip.genre, clip.artist) for clip in clips] == [("x", "rock", "Queen"), ("b/x.wav", "jazz", "")]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column 'file'"), ("file,artist\nx,y\n", "no column 'genre'"), ("file,genre\n", "names no file"),
        ("file,genre\nx.wav,polka\n", "line 2: the genre 'polka' is not known"),
        ("file,genre\n../x.wav,rock\n", "is no file of"), ("file,genre\n/etc/passwd,rock\n", "is no file of"),
        ("file,genre\n,rock\n", "is no file of"), ("file,genre\nx.wav\n", "the genre '' is not known"),
        ("file,genre\nx.wav,rock\nx.wav,rock\nx.wav,rock\n", "stands twice"),
    ],
)  # fmt: skip
def test_a_broken_index_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    index = tmp_path / "index.csv"
    index.write_text(text)
    refused(lambda: gtzan.from_index(tmp_path, index), "index.csv", word)


def test_an_index_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(b"\xff\xfe\x00\x01")
    refused(lambda: gtzan.from_index(tmp_path, tmp_path / "index.csv"), "can't be read")
    refused(lambda: gtzan.from_index(tmp_path, tmp_path), "can't be read")


def test_the_subset_of_real_clips_is_read_whole() -> None:
    folder = shared("data", "gtzan-subset")
    clips, skipped = gtzan.find(folder)
    assert len(clips) == 421 and not skipped
    assert {clip.genre for clip in clips} == set(gtzan.GENRES)
    assert next(clip.artist for clip in clips if clip.name == "blues.00000") == "John Lee Hooker"
    assert len(gtzan.windows(gtzan.read(clips[0].path), "dropped").pcm) == 19
