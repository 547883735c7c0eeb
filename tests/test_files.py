"""What services/files.py promises of a file that is replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services import files

WRITER = """
import sys
from pathlib import Path
from services import files
print("writing", flush=True)
for number in range(10**9):
    files.replace(Path(sys.argv[1]), str(number % 10) * 100_000)
"""


def test_a_writer_killed_at_any_time_leaves_a_whole_file_and_what_it_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
            before = path.stat().st_ino if path.exists() else 0
            while not path.exists() or path.stat().st_ino == before:
                pass
            writer.kill()
        text = path.read_text()
        assert len(text) == 100_000 and len(set(text)) == 1
    files.replace(path, "done")
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"] and path.read_text() == "done"


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    files.replace(path, b"old")
    with pytest.raises(ValueError, match="no model"), files.replacing(path) as new:
        assert new.suffix == ".npz" and new.parent == tmp_path
        new.write_bytes(b"half")
        raise ValueError("no model")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_a_disk_without_room_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    files.replace(path, "old")
    limited = (
        "import resource, signal, sys; from pathlib import Path; from services import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "files.replace(Path(sys.argv[1]), 'x' * 100)"
    )
    done = subprocess.run([sys.executable, "-c", limited, str(path)], capture_output=True, text=True)
    assert "OSError" in done.stderr or "File too large" in done.stderr
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_replaced_file_keeps_its_mode_and_a_secret_is_never_open_to_others(tmp_path: Path) -> None:
    kept, secret, usual = tmp_path / "kept.toml", tmp_path / "secret", tmp_path / "usual"
    kept.write_text("a")
    kept.chmod(0o640)
    files.replace(kept, "b")
    with files.replacing(secret, mode=0o400) as new:
        assert stat.S_IMODE(new.stat().st_mode) == 0o600
        new.write_text("word")
    umask = os.umask(0o027)
    try:
        files.replace(usual, "c")
    finally:
        os.umask(umask)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (kept, secret, usual)] == [0o640, 0o400, 0o640]


def test_a_link_laid_in_the_way_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("precious")
    (tmp_path / ".state.new.json").symlink_to(other)
    files.replace(tmp_path / "state.json", "mine")
    assert other.read_text() == "precious" and (tmp_path / "state.json").read_text() == "mine"


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_an_error_like_any_other(path: str) -> None:
    with pytest.raises(IsADirectoryError):
        files.replace(Path(path), "text")


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(OSError, match="is no regular file"):
            files.replace(path, "x")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and [each.name for each in tmp_path.iterdir()] == ["pipe"]
