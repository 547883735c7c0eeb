"""A data set of any genres is read whole, from folders or an index; what is left out is named; a broken one refused."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from tests.shared_data import shared
from tests.training.data.refusals import refused
from training.data import gtzan
from training.data.data_set import INNER, MOST_NAMED, Skipped, read_data_set, told
from training.data.splits import by_artist, lists_of

RATE = 22_050
FORMATS = {
    ".wav": "pcm_s16le",
    ".flac": "flac",
    ".au": "pcm_s16be",
    ".mp3": "libmp3lame",
    ".m4a": "aac",
    ".ogg": "",
}


def write(path: Path, seconds: float = 3.0, artist: str = "") -> Path:
    """Write a tone in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (8_000 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)).astype(np.int16)
    if not FORMATS[path.suffix]:  # libav as it is built here writes no Vorbis
        soundfile.write(path, tone, RATE)
        return path
    with av.open(str(path), "w") as container:
        if artist:
            container.metadata["artist"] = artist
        stream = container.add_stream(FORMATS[path.suffix], rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        resampler = av.AudioResampler(stream.format, "mono", RATE, frame_size=stream.frame_size or 1_024)
        for given in (frame, None):
            for part in resampler.resample(given):
                container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_is_read_by_the_services_decoder(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "a" / f"x{suffix}")
    write(tmp_path / "b" / f"x{suffix}")
    data = read_data_set(tmp_path)
    pcm = gtzan.read(data.clips[0].path)
    assert pcm.size == pytest.approx(3 * RATE, abs=3_000)
    assert np.abs(pcm[5_000:-5_000].astype(int)).max() == pytest.approx(8_000, rel=0.1)


@pytest.mark.parametrize("inner", ["", *INNER])
def test_own_genres_are_those_of_the_folders_and_the_usual_inner_folders_are_found(tmp_path: Path, inner: str) -> None:
    for genre in ("fado", "gnawa", "polka", "zouk"):
        write(tmp_path / inner / genre / f"{genre}.wav")
    data = read_data_set(tmp_path)
    assert data.genres == ("fado", "gnawa", "polka", "zouk") and not data.skipped
    assert [clip.label for clip in data.clips] == [0, 1, 2, 3]


def test_two_folders_may_hold_the_same_file_names(tmp_path: Path) -> None:
    for genre in "ab":
        for number in (1, 2):
            write(tmp_path / genre / f"{number}.wav")
    data = read_data_set(tmp_path)
    assert [clip.name for clip in data.clips] == ["a/1", "a/2", "b/1", "b/2"] and not data.skipped


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.wav")
    write(tmp_path / "a" / "x.flac")
    write(tmp_path / "b" / "y.wav")
    write(tmp_path / "loose.wav")
    (tmp_path / "a" / "cover.jpg").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    assert set(read_data_set(tmp_path).skipped) == {
        Skipped("a/x.wav", "repeats the clip x"),
        Skipped("a/cover.jpg", "is not named as audio"),
        Skipped("loose.wav", "lies in no genre's folder"),
        Skipped("empty/", "holds no clip"),
    }


def test_many_that_are_left_out_for_one_reason_are_one_line() -> None:
    (line,) = told([Skipped(f"{number}.jpg", "is not named as audio") for number in range(100)])
    assert f"and {100 - MOST_NAMED} more: is not named as audio" in line


def test_genres_can_be_chosen_and_ordered(tmp_path: Path) -> None:
    for genre in "abc":
        write(tmp_path / genre / f"{genre}.wav")
    data = read_data_set(tmp_path, genres=("c", "a"))
    assert [(clip.genre, clip.label) for clip in data.clips] == [("a", 1), ("c", 0)]
    assert data.skipped == [Skipped("b/", "is none of --genres"), Skipped("b/", "holds no clip")][: len(data.skipped)]
    refused(lambda: read_data_set(tmp_path, genres=("a", "d")), "--genres", "d has no clip")
    refused(lambda: read_data_set(tmp_path, genres=("a", "a")), "twice")


def test_links_are_followed_and_albums_may_be_nested(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "x.wav")
    write(tmp_path / "music" / "b" / "artist" / "album" / "y.wav")
    (tmp_path / "music" / "a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "music" / "b" / "z.wav").symlink_to(tmp_path / "elsewhere" / "x.wav")
    assert [(clip.name, clip.genre) for clip in read_data_set(tmp_path / "music").clips] == [
        ("x", "a"), ("y", "b"), ("z", "b"),
    ]  # fmt: skip
    (tmp_path / "index.csv").write_text("file,genre\na/x.wav,p\nb/z.wav,q\n")
    assert len(read_data_set(tmp_path / "music", tmp_path / "index.csv").clips) == 2


def test_an_artist_is_the_indexs_or_else_the_tags(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.mp3", artist="Amália")
    write(tmp_path / "b" / "y.mp3", artist="Someone")
    (tmp_path / "index.csv").write_text("file,artist\nb/y.mp3,Mahmoud\n")
    assert [clip.artist for clip in read_data_set(tmp_path).clips] == ["Amália", "Mahmoud"]


def test_a_folder_that_is_no_data_set_is_one_line(tmp_path: Path) -> None:
    refused(lambda: read_data_set(tmp_path / "no"), "is no folder")
    refused(lambda: read_data_set(tmp_path), "holds no audio", "--index")
    (tmp_path / "metal").mkdir()
    (tmp_path / "metal" / "notes.txt").write_text("x")
    refused(lambda: read_data_set(tmp_path), "holds no audio")
    write(tmp_path / "bad\nname" / "x.wav")
    refused(lambda: read_data_set(tmp_path), "can't be a genre's name")


def test_an_index_names_files_genres_artists_and_parts(tmp_path: Path) -> None:
    index = tmp_path / "index.csv"
    for file in ("a/x.wav", "b/x.wav", "c/y.wav"):
        write(tmp_path / file)
    index.write_text(
        "\ufefffile,genre,artist,split,more\na/x.wav,zouk,Queen,train,1\nb/x.wav,polka,,valid\nc/y.wav,polka,,\n",
        encoding="utf-8",
    )
    data = read_data_set(tmp_path, index)
    assert [(clip.name, clip.genre, clip.artist) for clip in data.clips] == [
        ("a/x", "zouk", "Queen"), ("b/x", "polka", ""), ("y", "polka", ""),
    ]  # fmt: skip
    assert data.genres == ("polka", "zouk") and data.split == {"a/x": "train", "b/x": "valid"}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no column 'file'"), ("file,artist\nx,y\n", "no column 'genre'"), ("file,genre\n", "names no file"),
        ("file,genre\n../x.wav,rock\n", "is no file of"), ("file,genre\n/etc/passwd,rock\n", "is no file of"),
        ("file,genre\n,rock\n", "is no file of"), ("file,genre\nx.wav\n", "names no genre"),
        ("file,genre\nx.wav,rock\n./x.wav,rock\n", "stands twice"),
        ("file,genre,split\nx.wav,rock,dev\n", "line 2: the split 'dev' is not known"),
        (f"file,genre\nx.wav,{'r' * 65}\n", "can't be a genre's name"),
        ("file,genre\nx.wav,a\tb\n", "can't be a genre's name"),
        ("file;genre\nx.wav;a\n", "must name file, genre, with commas"),
        ("file,genre\nno.wav,a\n", "no.wav is not there"),
    ],
)  # fmt: skip
def test_a_broken_index_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    index = tmp_path / "index.csv"
    index.write_text(text)
    write(tmp_path / "x.wav")
    refused(lambda: read_data_set(tmp_path, index), "index.csv", word)


def test_rows_of_an_index_without_a_file_are_left_out_and_named(tmp_path: Path) -> None:
    for file in ("a.wav", "b.wav"):
        write(tmp_path / file)
    (tmp_path / "folder").mkdir()
    long = "x" * 300
    index = tmp_path / "index.csv"
    # as a spreadsheet on Windows writes it, with a header typed by hand
    index.write_bytes(f"\ufefffile, genre\r\na.wav, p\r\nb.wav,q\r\nno.wav,q\r\nfolder,q\r\n{long},q\r\n".encode())
    data = read_data_set(tmp_path, index)
    assert [(clip.name, clip.genre) for clip in data.clips] == [("a", "p"), ("b", "q")]
    assert data.skipped == [
        Skipped("no.wav", "is not there"),
        Skipped("folder", "is a folder"),
        Skipped(long, "can't be read (file name too long)"),
    ]


def test_an_index_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "index.csv").write_bytes(b"\xff\xfe\x00\x01")
    refused(lambda: read_data_set(tmp_path, tmp_path / "index.csv"), "can't be read")
    refused(lambda: read_data_set(tmp_path, tmp_path), "can't be read")


def test_the_indexs_split_is_used_and_an_artist_on_both_sides_refused(tmp_path: Path) -> None:
    index, rows = tmp_path / "index.csv", ["file,genre,artist,split"]
    for genre in "ab":
        rows += [f"{genre}{n}.wav,{genre},{genre}{n},{part}" for n, part in enumerate(("train", "valid", "test"))]
        for n in range(3):
            write(tmp_path / f"{genre}{n}.wav")
    write(tmp_path / "c.wav")
    index.write_text("\n".join(rows))
    data = read_data_set(tmp_path, index)
    split = by_artist(data.clips, lists_of(data), 0.25, 1)
    assert split.protocol.startswith("the index's own split: 2 clips")
    assert [[data.clips[at].name for at in part] for part in (split.train, split.valid, split.test)] == [
        ["a0", "b0"], ["a1", "b1"], ["a2", "b2"],
    ]  # fmt: skip
    index.write_text("\n".join([*rows, "c.wav,a,a0,valid"]))
    refused(lambda: lists_of(read_data_set(tmp_path, index)), "a0 is in train and in valid")


def test_the_subset_of_real_clips_is_read_whole() -> None:
    data = read_data_set(shared("data", "gtzan-subset"))
    assert len(data.clips) == 421 and data.genres == gtzan.GENRES
    assert next(clip.artist for clip in data.clips if clip.name == "blues.00000") == "John Lee Hooker"
    assert len(gtzan.windows(gtzan.read(data.clips[0].path), "dropped").pcm) == 19


def test_the_services_decoder_gives_a_flac_files_samples_as_they_are(tmp_path: Path) -> None:
    samples = np.random.default_rng(1).integers(-32_768, 32_767, 30_000, dtype=np.int16)
    soundfile.write(tmp_path / "x.flac", samples, RATE, subtype="PCM_16")
    np.testing.assert_array_equal(gtzan.read(tmp_path / "x.flac"), samples)
