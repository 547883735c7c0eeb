from __future__ import annotations

import csv
import re
import sqlite3
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.dashboard.history.command import COLUMNS, history
from services.dashboard.history.store import History
from services.dashboard.state.genre_segments import GenreSegment
from services.errors import GenreError, UsageError

NOON = datetime(2026, 11, 30, 12).timestamp()
PAGE = Path(__file__).resolve().parents[3] / "docs" / "history.md"
SQL = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def segment(at: float, genre: str | None, kind: str = "music", stream: str = "radio1", title: str = "") -> GenreSegment:
    return GenreSegment(stream, NOON + at, NOON + at + 60, genre, 0.8, title, "The Examples" if title else "", kind)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A dashboard that still has the history open: 10 minutes of two streams."""
    store = History(tmp_path / "state" / "history.db", 30, 10)
    heard = [segment(0, "jazz", title="One"), segment(60, "jazz", title="One"), segment(120, "rock", title='Two, "b"')]
    heard += [segment(180, "jazz", title="One"), segment(240, None, "speech")]
    heard += [segment(300, None, "silence"), segment(360, None, "silence"), segment(480, None, "silence")]
    store.write([*heard, segment(0, "pop", stream="radio2")], [])
    config = tmp_path / "genre.toml"
    config.write_text(f'[paths]\nstate_dir = "{tmp_path}/state"\n')
    return config


def run(*args: object) -> str:
    done = CliRunner().invoke(history, [str(arg) for arg in args], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_csv_holds_every_segment_by_stream_and_time(config: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader(run("export", "--config", config).splitlines()))
    assert len(rows) == 9 and tuple(rows[0]) == COLUMNS
    assert rows[2]["title"] == 'Two, "b"' and rows[2]["seconds"] == "60.0" and rows[4]["kind"] == "speech"
    assert datetime.fromisoformat(rows[0]["start"].replace("Z", "+00:00")).timestamp() == NOON
    run("export", "--config", config, "--stream", "radio2", "--out", tmp_path / "out.csv")
    assert [row["stream"] for row in csv.DictReader((tmp_path / "out.csv").open())] == ["radio2"]
    part = run("export", "--config", config, "--since", "2026-11-30T12:01", "--until", "2026-11-30T12:03").splitlines()
    assert [row["genre"] for row in csv.DictReader(part)] == ["jazz", "rock"]
    assert run("export", "--config", config, "--since", "2030-01-01").splitlines() == [",".join(COLUMNS)]


def test_parquet_holds_the_same_with_its_types(config: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    run("export", "--config", config, "--out", tmp_path / "out.parquet")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(rows) == 9 and rows[0]["start"].timestamp() == NOON and rows[4]["genre"] is None


def test_a_copy_is_whole_while_the_dashboard_writes(config: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "state" / "history.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM runs")
    run("backup", "--config", config, tmp_path / "copy.db")
    writer.execute("ROLLBACK")
    writer.close()
    copy = sqlite3.connect(tmp_path / "copy.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("SELECT count(*) FROM runs").fetchone() == (9,)
    copy.close()


@pytest.mark.parametrize(("args", "word"), [
    (("export", "--since", "yesterday"), "no time"), (("export", "--out", "out.xlsx"), "neither"),
    (("export", "--out", "/nowhere/out.csv"), "can't be written"), (("backup", "/nowhere/copy.db"), "can't be written"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_one_line(config: Path, args: tuple[str, ...], word: str) -> None:
    with pytest.raises(GenreError, match=word) as raised:
        run(*args, "--config", config)
    assert "\n" not in str(raised.value)


def test_a_history_that_is_not_there_or_would_be_its_own_copy_is_refused(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the history itself"):
        run("backup", "--config", config, tmp_path / "state" / "history.db")
    config.write_text(f'[paths]\nstate_dir = "{tmp_path}/none"\n')
    for command in (("export",), ("backup", tmp_path / "copy.db")):
        with pytest.raises(GenreError, match="is not there"):
            run(*command, "--config", config)
    assert not (tmp_path / "copy.db").exists() and not (tmp_path / "none").exists()


def test_the_documented_queries_say_what_was_heard(config: Path, tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "state" / "history.db")
    genres, talk, silence, tracks = (database.execute(text).fetchall() for text in SQL)
    assert genres == [
        ("2026-11-30", "jazz", 0.05, 60.0),
        ("2026-11-30", "pop", 0.02, 20.0),
        ("2026-11-30", "rock", 0.02, 20.0),
    ]
    assert talk == [("2026-11-30", "radio1", 0.13, 12.5), ("2026-11-30", "radio2", 0.02, 0.0)]
    assert silence == [("radio1", "2026-11-30 12:05:00", 120.0), ("radio1", "2026-11-30 12:08:00", 60.0)]
    assert [(artist, title, seconds) for _, _, artist, title, seconds in tracks] == [
        ("The Examples", "One", 120.0), ("The Examples", 'Two, "b"', 60.0), ("The Examples", "One", 60.0)]  # fmt: skip
    database.close()
