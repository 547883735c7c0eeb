"""The cursor: the last good one survives torn writes, full disks and strange files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.contract.messages import Ledger
from services.errors import GenreError
from services.fetcher.delivery.checkpoint import Checkpoint, Checkpoints
from services.fetcher.events import ResumePoint

URL = "http://origin.example/list.m3u8"


def cursor(timeline: int = 100) -> Checkpoint:
    ledger = Ledger(stream="radio", timeline_id="0123456789ab", timeline=timeline, classified=timeline, causes={})
    return Checkpoint(URL, ledger, ResumePoint(1, 10, 20, {"sequence": 7, "uri": "a.ts"}))


def saved(folder: Path) -> Path:
    return folder / "radio.cursor.json"


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "state")
    assert checkpoints.load("radio", URL) is None
    checkpoints.save("radio", cursor())
    assert checkpoints.load("radio", URL) == cursor()
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["radio.cursor.json"]


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 200, -1])
def test_a_torn_file_is_set_aside_and_never_believed(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("radio", cursor())
    whole = saved(tmp_path).read_bytes()
    saved(tmp_path).write_bytes(whole[:keep])
    assert checkpoints.load("radio", URL) is None
    assert not saved(tmp_path).exists() and list(tmp_path.glob("*.set-aside"))
    checkpoints.save("radio", cursor(200))
    assert checkpoints.load("radio", URL) == cursor(200)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("radio", cursor())
    whole = saved(tmp_path).read_text()
    saved(tmp_path).write_text(whole.replace("100", "101"))
    assert checkpoints.load("radio", URL) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"cursor": 1, "sha256": 2}',
        b'{"cursor": "{}", "sha256": ""}',
        b"9" * 5000,
        b"[" * 100_000,
        json.dumps(
            {"cursor": "x", "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"}
        ).encode(),
    ],
)
def test_a_strange_file_is_set_aside(tmp_path: Path, content: bytes) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(tmp_path).write_bytes(content)
    assert checkpoints.load("radio", URL) is None
    assert not saved(tmp_path).exists()


def test_a_directory_in_its_place_is_an_error_that_names_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    saved(tmp_path).mkdir()
    with pytest.raises(GenreError, match=r"radio\.cursor\.json.*can't be read"):
        checkpoints.load("radio", URL)


def test_another_url_starts_the_stream_anew(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("radio", cursor())
    assert checkpoints.load("radio", "http://origin.example/other.m3u8") is None


def test_a_full_disk_leaves_the_last_good_cursor(tmp_path: Path) -> None:
    """In a process whose files may not grow: what ENOSPC does, for root too."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("radio", cursor())
    child = f"""
import resource, signal
from pathlib import Path
from services.contract.messages import Ledger
from services.fetcher.delivery.checkpoint import Checkpoint, Checkpoints
checkpoints = Checkpoints(Path({str(tmp_path)!r}))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    checkpoints.save("radio", Checkpoint({URL!r}, Ledger(stream="radio", timeline=5, classified=5), None))
except OSError as error:
    print(type(error).__name__, error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "OSError File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["radio.cursor.json"]
    assert checkpoints.load("radio", URL) == cursor()


def test_kill_at_any_point_of_a_save_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    """kill -9 between the system calls of save: each is made the last one once."""
    calls = ["open", "write", "fsync", "replace"]
    for call in calls:
        folder = tmp_path / call
        Checkpoints(folder).save("radio", cursor(1))
        child = f"""
import os, pathlib
from pathlib import Path
from services.contract.messages import Ledger
from services.fetcher.delivery.checkpoint import Checkpoint, Checkpoints
checkpoints = Checkpoints(Path({str(folder)!r}))
die = lambda *a, **k: os._exit(9)
if {call!r} == "open": pathlib.Path.open = die
if {call!r} == "write":
    real = pathlib.Path.open
    def torn(self, *a, **k):
        file = real(self, *a, **k)
        file.write(b'{{"sha256": "half'); file.flush()
        die()
    pathlib.Path.open = torn
if {call!r} == "fsync": os.fsync = die
if {call!r} == "replace": pathlib.Path.replace = die
checkpoints.save("radio", Checkpoint({URL!r}, Ledger(stream="radio", timeline=2, classified=2), None))
"""
        assert subprocess.run([sys.executable, "-c", child], check=False).returncode == 9
        assert Checkpoints(folder).load("radio", URL) == cursor(1)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(GenreError, match="state folder can't be written"):
        Checkpoints(tmp_path / "state")


def test_a_file_where_the_folder_should_be_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(GenreError, match="state folder can't be written"):
        Checkpoints(tmp_path / "state")
