from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from services.classify.catalogue.results import SMALL_PARTS, SUCCESS, Results
from services.classify.catalogue.work import FOLDER, Order, Row, Track
from services.errors import GenreError

ORDER = Order("0.1.0", "2026.1", "musicnn", "2", "abc", "def", ("jazz", "hip hop"), 33_000, "/models")


def row(name: str, error: str = "", size: int = 10, mtime_ns: int = 1_700_000_000_000_000_001) -> Row:
    track = Track(f"/music/{name}", size, mtime_ns)
    if error:
        return Row(track, error=error)
    return Row(track, 30.0, "jazz", 0.75, "music", (0.75, 0.25), 19, "Title", "Artist")


def written(folder: Path) -> list[str]:
    return sorted(pd.read_parquet(folder)["file"])


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "results.parquet"


def test_pandas_and_duckdb_read_the_same_rows(out: Path) -> None:
    with Results(out, ORDER) as results:
        results.write([row("a.mp3"), row("b.mp3", "can't be read as audio")])
        results.write([replace(row("c.mp3"), kind="silence", genre=None, note="2 damaged packets were left out")])
        results.finish()
        assert (results.files, results.errors) == (3, 1)
    frame = pd.read_parquet(out).set_index("file")
    assert list(frame.index) == ["/music/a.mp3", "/music/b.mp3", "/music/c.mp3"]
    assert frame.loc["/music/a.mp3", "scores"] == {"jazz": 0.75, "hip hop": 0.25}
    assert frame["mtime_ns"].iloc[0] == 1_700_000_000_000_000_001
    assert frame["error"].isna().tolist() == [True, False, True]
    sql = f"select file, genre, scores.jazz, windows, model, model_version, error from '{out}/*.parquet' order by file"
    assert duckdb.sql(sql).fetchall() == [
        ("/music/a.mp3", "jazz", 0.75, 19, "musicnn", "2", None),
        ("/music/b.mp3", None, None, 0, "musicnn", "2", "can't be read as audio"),
        ("/music/c.mp3", None, 0.75, 19, "musicnn", "2", None),
    ]


def test_a_name_that_is_no_utf8_is_written_readably(out: Path) -> None:
    with Results(out, ORDER) as results:
        results.write([replace(row("a"), track=Track("/music/\udcff\u00e9.mp3", 1, 1), title="bad \udcff title")])
    assert written(out) == ["/music/\\xffé.mp3"]


def test_what_is_written_is_not_wanted_again_by_a_later_run_nor_twice_in_one(out: Path) -> None:
    with Results(out, ORDER) as results:
        assert results.take(row("a.mp3").track) and not results.take(row("a.mp3").track)
        results.write([row("a.mp3"), row("b.mp3", "broken")])
    with Results(out, ORDER) as results:
        wanted = [name for name in ("a.mp3", "b.mp3", "c.mp3") if results.take(row(name).track)]
    assert wanted == ["c.mp3"]


def test_a_file_that_only_workers_see_is_known_by_its_path(out: Path) -> None:
    with Results(out, ORDER) as results:
        results.write([row("a.mp3")])
    with Results(out, ORDER) as results:
        assert not results.take(Track("/music/a.mp3"))


def test_a_changed_file_and_with_retry_failed_a_failed_one_get_one_new_row(out: Path) -> None:
    with Results(out, ORDER) as results:
        results.write([row("same.mp3"), row("changed.mp3"), row("failed.mp3", "broken")])
        results.write([row("other.mp3")])
        results.finish()
    again = [row("same.mp3"), row("changed.mp3", size=11), row("failed.mp3"), row("other.mp3")]
    with Results(out, ORDER, retry_failed=True) as results:
        taken = [one for one in again if results.take(one.track)]
        assert [one.track.path for one in taken] == ["/music/changed.mp3", "/music/failed.mp3"]
        results.write(taken)
        results.finish()
        assert (results.files, results.errors) == (4, 0)
    frame = pd.read_parquet(out)
    assert sorted(frame["file"]) == [f"/music/{name}.mp3" for name in ("changed", "failed", "other", "same")]
    assert frame.set_index("file").loc["/music/changed.mp3", "size"] == 11


def test_folders_that_could_not_be_listed_are_found_out_anew_each_time(out: Path) -> None:
    folder = Track("/music/secret", folder_error="folder can't be read (Permission denied)")
    with Results(out, ORDER) as results:
        assert results.take(folder)
        results.write([Row(folder, kind=FOLDER, error=folder.folder_error)])
    with Results(out, ORDER) as results:
        assert results.take(folder) and results.files == 0


def test_many_batches_end_as_few_parts(out: Path) -> None:
    count = SMALL_PARTS + 40
    with Results(out, ORDER) as results:
        for index in range(count):
            results.write([row(f"{index:05}.mp3")])
        assert len(list(out.glob("part-*"))) < 60
        results.finish()
    assert written(out) == [f"/music/{index:05}.mp3" for index in range(count)]
    assert len(list(out.glob("part-*"))) == 1 and (out / SUCCESS).exists()


def test_a_merge_that_was_cut_short_leaves_no_file_twice(out: Path) -> None:
    with Results(out, ORDER) as results:
        for name in ("a.mp3", "b.mp3", "c.mp3"):
            results.write([row(name)])
        parts = sorted(out.glob("part-*"))
        old = [part.read_bytes() for part in parts[:2]]
        results.finish()
    for part, content in zip(parts, old, strict=False):
        part.write_bytes(content)
    (out / ".part-00000009.new.parquet").write_bytes(b"half a par")
    assert len(written(out)) == 5
    with Results(out, ORDER) as results:
        assert results.files == 3
    assert written(out) == ["/music/a.mp3", "/music/b.mp3", "/music/c.mp3"]
    assert not list(out.glob(".part*"))


@pytest.mark.parametrize(("change", "words"), [
    ({"model": "vgg16"}, "model musicnn, not vgg16"), ({"model_version": "3"}, "model_version 2, not 3"),
    ({"recipe_digest": "0"}, "recipe_digest"), ({"program": "0.2.0"}, "program 0.1.0, not 0.2.0"),
])  # fmt: skip
def test_the_results_of_another_run_are_refused_and_left_alone(out: Path, change: dict[str, str], words: str) -> None:
    with Results(out, ORDER) as results:
        results.write([row("a.mp3")])
    with pytest.raises(GenreError, match=words), Results(out, replace(ORDER, **change)):
        pass
    assert written(out) == ["/music/a.mp3"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(GenreError, match="holds something else"), Results(tmp_path, ORDER):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_runs_at_once_into_one_folder_are_refused(out: Path) -> None:
    with Results(out, ORDER), pytest.raises(GenreError, match="another run"), Results(out, ORDER):
        pass


def test_a_damaged_part_is_named(out: Path) -> None:
    with Results(out, ORDER) as results:
        results.write([row("a.mp3")])
    part = next(out.glob("part-*"))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(GenreError, match=r"part-00000001\.parquet: is damaged"), Results(out, ORDER):
        pass
    part.unlink()
    with Results(out, ORDER) as results:
        assert results.take(row("a.mp3").track)


def test_an_out_that_is_a_file_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "results", Path("/proc/results.parquet")):
        with pytest.raises(GenreError, match="can't be written") as error, Results(path, ORDER):
            pass
        assert "\n" not in str(error.value)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 256 KiB."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
        if subprocess.run(argv, capture_output=True).returncode:
            pytest.skip("may not mount a small disk here")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_what_was_written_stays(small_disk: Path) -> None:
    out, index = small_disk / "results.parquet", 0
    words = "no space is left; make room and run the same command again"
    with pytest.raises(GenreError, match=words) as error, Results(out, ORDER) as results:
        for index in range(1_000):
            results.write([row(f"{index}.mp3")])
    assert "\n" not in str(error.value)
    assert len(written(out)) == index and not list(out.glob(".part*"))
    with Results(out, ORDER) as results:
        assert not results.take(row("0.mp3").track) and results.take(row(f"{index}.mp3").track)
