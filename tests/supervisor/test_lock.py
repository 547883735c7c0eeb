"""One process a folder: the second is refused or waits, and a lock never outlives its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from services.origin.packager import Packaged
from services.supervisor import lock, music_hls
from tests.broker.mosquitto import wait_for

HOLDER = "import sys, time, pathlib; from services.supervisor import lock; f = pathlib.Path(sys.argv[1])\n"
HOLDER += "with lock.hold(f):\n    print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_a_second_holder_is_refused_with_the_first_ones_number(holder: subprocess.Popen[bytes], tmp_path: Path) -> None:
    with pytest.raises(lock.TakenError, match=f"process {holder.pid}"), lock.hold(tmp_path):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    with lock.hold(tmp_path):
        assert (tmp_path / lock.NAME).read_text() == f"{os.getpid()}\n"


def test_one_that_waits_says_so_once_and_goes_on_when_the_first_ends(
    holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    said: list[int] = []

    def waiting() -> None:
        said.append(1)
        holder.kill()

    with lock.hold(tmp_path, waiting):
        assert said == [1]
    holder.wait(10)


def test_two_that_package_one_music_folder_do_it_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    music, hls = tmp_path / "music", tmp_path / "cache" / "hls"
    music.mkdir()
    folder = hls.with_name("hls.packaging")
    first = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE)
    assert first.stdout is not None and first.stdout.readline() == b"held\n"
    packaging: list[bool] = []

    def package(*arguments: object) -> list[tuple[int, int]]:
        packaging.append(first.poll() is not None)
        return []

    monkeypatch.setattr(music_hls, "package_each", package)
    monkeypatch.setattr(music_hls, "_say_waiting", lambda: (os.kill(first.pid, signal.SIGKILL), first.wait(10)))
    assert music_hls.packaged(music, hls) == list(Packaged().names.values())
    assert packaging == [True]


__all__ = ["wait_for"]
