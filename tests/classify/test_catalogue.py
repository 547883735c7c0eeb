from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import soundfile

from services.classify.audio_file import Heard
from services.classify.catalogue.results import SUCCESS
from services.classify.catalogue.run import Summary, classify_all, order_for
from services.classify.catalogue.work import Order
from services.classify.command import classify
from services.classify.decode import pieces
from services.errors import GenreError, UsageError
from tests.broker.mosquitto import free_port, wait_for
from tests.classify.dask_processes import process, scheduler, worker
from tests.demo_recordings import DEMO

MODELS = Path(__file__).resolve().parents[2] / "models"
pytestmark = [
    pytest.mark.timeout(600),
]
at_length = pytest.mark.skipif(os.environ.get("GENRE_TEST_CATALOGUE") != "1", reason="runs by 'make test-catalogue'")
"""Each of these starts and kills schedulers and workers of its own, seconds a piece."""
GENRE = [sys.executable, "-m", "services.cli", "classify"]
FILES = 30


@pytest.fixture(scope="module")
def order() -> Order:
    return order_for(MODELS, "genre-sounds")


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty short files in folders, one of them no audio."""
    folder = tmp_path_factory.mktemp("library")
    sound = next(pieces(DEMO / "jazz.m4a", Heard()))[: 22_050 * 8]
    for index in range(FILES):
        album = folder / f"album{index // 10}"
        album.mkdir(exist_ok=True)
        soundfile.write(album / f"{index:02}.wav", sound, 22_050)
    (folder / "album1" / "11.wav").write_bytes(b"no audio")
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A scheduler with two workers."""
    folder = tmp_path_factory.mktemp("dask")
    with ExitStack() as stack:
        address, _ = stack.enter_context(scheduler(folder))
        for name in ("w0", "w1"):
            stack.enter_context(worker(address, folder, name))
        yield address


def run(
    sources: Path | Sequence[str], out: Path, order: Order, cluster: str | None, *, batch: int = 2, wait_s: float = 120,
    retry_failed: bool = False,
) -> Summary:  # fmt: skip
    named = [str(sources)] if isinstance(sources, Path) else list(sources)
    return classify_all(
        named, out, order, cluster=cluster, workers=1, batch=batch, retry_failed=retry_failed, wait_s=wait_s
    )


def refused(error: pytest.ExceptionInfo[GenreError], *words: str) -> None:
    said = str(error.value)
    assert "\n" not in said and len(said) < 500, said
    for word in words:
        assert word in said, said


def complete(out: Path, music: Path) -> None:
    """Each file of the library stands in the results once, and only the one that is no audio has an error."""
    frame = pd.read_parquet(out)
    assert sorted(frame["file"]) == sorted(str(path) for path in music.rglob("*.wav"))
    assert [Path(file).name for file in frame[frame["error"].notna()]["file"]] == ["11.wav"]
    assert (out / SUCCESS).exists()


@contextmanager
def client(out: Path, music: Path, address: str, *options: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process; its words are in out's folder, in client.log."""
    argv = [*GENRE, "--out", out, "--cluster", address, "--batch", "1", "--json", "--wait", "200", *options, music]
    with process(argv, out.parent / "client.log") as running:
        yield running


def said(out: Path) -> str:
    return (out.parent / "client.log").read_text()


def parts(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


def test_a_library_is_classified_and_a_second_run_takes_only_what_is_new(
    cluster: str, music: Path, order: Order, tmp_path: Path
) -> None:
    out = tmp_path / "results.parquet"
    first = run(music, out, order, cluster)
    assert (first.files, first.errors, first.written) == (FILES, 1, FILES)
    complete(out, music)
    good = pd.read_parquet(out).dropna(subset="genre").iloc[0]
    assert good["genre"] in order.labels and good["windows"] == 5 and good["seconds"] == pytest.approx(8)
    assert sum(good["scores"].values()) == pytest.approx(1, abs=1e-3) and good["model"] == "genre-sounds"

    assert run(music, out, order, None).written == 0
    soundfile.write(tmp_path / "new.wav", np.zeros(30_000), 22_050)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'new.wav'}\n{tmp_path / 'absent.wav'}\n{music}\n")
    second = run([str(tmp_path / "list.txt")], out, order, cluster)
    assert (second.files, second.written, second.errors) == (FILES + 2, 2, 2)
    frame = pd.read_parquet(out).set_index("file")
    assert frame.loc[str(tmp_path / "absent.wav"), "error"] == "can't be opened (No such file or directory)"
    assert frame.loc[str(tmp_path / "new.wav"), "kind"] == "silence"


def test_without_a_cluster_this_machine_does_it_and_nothing_stays_running(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    argv = [*GENRE, "--out", out, "--workers", "2", "--json", "-"]
    names = "\n".join(map(str, sorted(music.rglob("*.wav"))[:6]))
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        answer, errors = running.communicate(names, timeout=300)
    assert running.returncode == 0 and errors == "", errors
    assert json.loads(answer)["files"] == 6
    wait_for(lambda: not _group(running.pid), "the end of all its processes")


def _group(number: int) -> list[psutil.Process]:
    return [each for each in psutil.process_iter() if _group_of(each.pid) == number]


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


@at_length
def test_a_worker_that_dies_costs_nothing_but_time(music: Path, order: Order, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    with ExitStack() as stack:
        address, _ = stack.enter_context(scheduler(tmp_path, "--preload", str(_allow_failures(tmp_path))))
        nanny = stack.enter_context(worker(address, tmp_path, "w", "--nanny"))
        running = stack.enter_context(client(out, music, address))
        for seen in (2, 6):
            wait_for(lambda seen=seen: len(parts(out)) >= seen, f"{seen} parts", 200)
            [child] = [each for each in psutil.Process(nanny.pid).children() if "spawn_main" in str(each.cmdline())]
            child.kill()
        assert running.wait(300) == 0, said(out)
    complete(out, music)


def _allow_failures(folder: Path) -> Path:
    """Dask's own default, which these tests' schedulers otherwise don't have."""
    path = folder / "allow.py"
    path.write_text("def dask_setup(scheduler):\n    scheduler.allowed_failures = 3\n")
    return path


def test_a_client_that_was_killed_goes_on_and_classifies_no_file_twice(
    cluster: str, music: Path, tmp_path: Path
) -> None:
    out = tmp_path / "results.parquet"
    with client(out, music, cluster) as running:
        wait_for(lambda: len(parts(out)) >= 5, "five parts", 200)
        running.kill()
        running.wait()
    kept = len(pd.read_parquet(out))
    assert 5 <= kept < FILES
    with client(out, music, cluster) as running:
        assert running.wait(300) == 0
    assert json.loads(said(out))["written"] == FILES - kept
    complete(out, music)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_says_where_it_stopped_and_leaves_what_is_done(
    cluster: str, music: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "results.parquet"
    with client(out, music, cluster) as running:
        wait_for(lambda: len(parts(out)) >= 2, "two parts", 200)
        running.send_signal(number)
        assert running.wait(300) == 130
    assert re.fullmatch(
        rf"genre: stopped; (\d+) files are in {re.escape(str(out))}, the same [\w ]*", said(out).strip()
    )
    assert len(pd.read_parquet(out)) >= 2 and not (out / SUCCESS).exists()


@at_length
def test_a_scheduler_that_comes_back_gets_what_was_in_flight_again(music: Path, tmp_path: Path) -> None:
    out, port = tmp_path / "results.parquet", str(free_port())
    address = f"tcp://127.0.0.1:{port}"
    with ExitStack() as rest, ExitStack() as first:
        _, dask = first.enter_context(scheduler(tmp_path, "--port", port))
        first.enter_context(worker(address, tmp_path, "w0"))
        running = rest.enter_context(client(out, music, address))
        wait_for(lambda: len(parts(out)) >= 3, "three parts", 200)
        dask.kill()
        dask.wait()
        first.close()
        rest.enter_context(scheduler(tmp_path, "--port", port))
        rest.enter_context(worker(address, tmp_path, "w1"))
        assert running.wait(300) == 0, said(out)
    complete(out, music)
    assert json.loads(said(out).splitlines()[-1])["written"] == FILES


@at_length
def test_a_scheduler_that_stays_away_ends_the_run_in_one_line(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "results.parquet"
    with ExitStack() as stack:
        address, dask = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(worker(address, tmp_path, "w"))
        _workers(address, 1)
        running = stack.enter_context(client(out, music, address, "--wait", "5"))
        wait_for(lambda: len(parts(out)) >= 2, "two parts", 200)
        dask.kill()
        assert running.wait(300) == 1
    *before, last = said(out).splitlines()
    assert "no Dask scheduler answers" in last and "files are written" in last
    assert before[-1].endswith("is lost; waiting for it") and "Traceback" not in said(out)
    assert len(pd.read_parquet(out)) >= 2


@at_length
def test_a_library_that_the_workers_do_not_have_is_refused_before_anything_is_written(
    music: Path, order: Order, tmp_path: Path
) -> None:
    out = tmp_path / "results.parquet"
    with ExitStack() as stack:
        address, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(worker(address, tmp_path, "blind", before=_without(music)))
        with pytest.raises(GenreError) as error:
            run(music, out, order, address)
        refused(error, "can't be opened", "mount the library on every worker")
        assert not parts(out)
        # One that does not see it among others costs no file.
        stack.enter_context(worker(address, tmp_path, "sees"))
        _workers(address, 2)
        assert run(music, out, order, address).errors == 1
    complete(out, music)


def _without(folder: Path) -> list[str]:
    """The start of a command that runs where a folder is empty."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("may not make mount namespaces here")
    return ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none '{folder}' && exec \"$@\"", "sh"]


def _workers(address: str, count: int) -> None:
    from distributed import Client

    with Client(address, set_as_default=False) as dask:
        dask.wait_for_workers(count, timeout=200)


@at_length
def test_a_file_that_kills_its_worker_is_an_error_and_the_rest_of_its_batch_is_not(
    music: Path, order: Order, tmp_path: Path
) -> None:
    deadly = tmp_path / "preload.py"
    deadly.write_text(
        "import os\nfrom services.classify import pipeline\n"
        "real = pipeline.real = getattr(pipeline, 'real', pipeline.pieces)\n"
        "def pieces(path, about):\n    if path.name == '05.wav':\n        os.kill(os.getpid(), 9)\n"
        "    return real(path, about)\npipeline.pieces = pieces\n"
    )
    out = tmp_path / "results.parquet"
    with ExitStack() as stack:
        address, _ = stack.enter_context(scheduler(tmp_path))
        stack.enter_context(worker(address, tmp_path, "w", "--nanny", "--preload", str(deadly)))
        assert run(music / "album0", out, order, address, batch=4).errors == 1
    frame = pd.read_parquet(out).set_index("file")
    assert len(frame) == 10 and "died" in frame.loc[str(music / "album0" / "05.wav"), "error"]


@pytest.mark.parametrize(("change", "words"), [
    ({"model_version": "9"}, "model genre-sounds is"), ({"program": "0.0.9"}, "genre-edge is"),
    ({"model": "nope"}, "'nope' is not in"),
])  # fmt: skip
def test_workers_that_would_answer_otherwise_are_refused(
    cluster: str, music: Path, order: Order, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    with pytest.raises(GenreError) as error:
        run(music, tmp_path / "out", replace(order, models_dir="/nowhere", **change), cluster)
    refused(error, "worker tcp://127.0.0.1:", words)
    assert not parts(tmp_path / "out")


@at_length
def test_workers_and_schedulers_with_another_genre_edge_or_none_are_refused(
    music: Path, order: Order, tmp_path: Path
) -> None:
    none = tmp_path / "none.py"
    none.write_text("import sys\nfor name in list(sys.modules):\n    if name.split('.')[0] == 'services':\n"
                    "        del sys.modules[name]\nsys.modules['services'] = None\n")  # fmt: skip
    old = tmp_path / "old" / "genre_edge-0.0.9.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: genre-edge\nVersion: 0.0.9\n")
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        bare, _ = stack.enter_context(scheduler(folders[0], "--preload", str(none)))
        address, _ = stack.enter_context(scheduler(folders[1]))
        with worker(address, folders[1], "old", env={"PYTHONPATH": str(old.parent)}):
            with pytest.raises(GenreError) as error:
                run(music, tmp_path / "out", order, address)
            refused(error, "worker tcp://", f"genre-edge is 0.0.9 there and {order.program} here")
            with pytest.raises(GenreError) as error:
                run(music, tmp_path / "out", order, bare)
            refused(error, f"scheduler {bare}", "can't run genre-edge", "install genre-edge[catalogue]")
        with worker(address, folders[1], "bare", "--preload", str(none)):
            with pytest.raises(GenreError) as error:
                run(music, tmp_path / "out", order, address)
            refused(error, "worker tcp://", "can't run genre-edge", "install genre-edge[catalogue]")


def test_a_scheduler_without_workers_is_waited_for_and_then_told(
    music: Path, order: Order, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with scheduler(tmp_path) as (address, _), pytest.raises(GenreError) as error:
        run(music, tmp_path / "out", order, address, wait_s=1)
    refused(error, address, "has had no workers for 1 s", "dask worker")
    assert capfd.readouterr().err.count("waiting") == 1


def test_what_is_no_scheduler_is_told_in_one_line_within_the_wait(
    cluster: str, music: Path, order: Order, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address, words in (
            (f"tcp://127.0.0.1:{free_port()}", "no Dask scheduler answers there"),
            (f"tcp://127.0.0.1:{silent.getsockname()[1]}", "no Dask scheduler answers there"),
            ("nonsense", "is no address of a scheduler"),
            ("http://127.0.0.1:1", "is no address of a scheduler"),
        ):
            with pytest.raises(GenreError) as error:
                run(music, tmp_path / "out", order, address, wait_s=1)
            refused(error, address, words)


def test_the_results_of_another_model_are_refused_before_a_scheduler_is_asked(
    music: Path, order: Order, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty.wav").write_bytes(b"")
    run(tmp_path / "empty.wav", out, order, None)
    with pytest.raises(GenreError) as error:
        run(music, out, replace(order, model_version="9"), "tcp://127.0.0.1:1")
    refused(error, str(out), "holds another run's results", f"model_version {order.model_version}, not 9")


def test_nothing_to_classify_is_told(order: Order, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(GenreError, match="no audio file is in there"):
        run(tmp_path / "empty", tmp_path / "out", order, None)
    with pytest.raises(GenreError, match="is not there"):
        run(tmp_path / "none.wav", tmp_path / "out", order, None)


@pytest.mark.parametrize(("args", "words"), [
    (["--cluster", "tcp://x:1", "a.wav"], "--cluster: goes with --out only"),
    (["--out", "x", "--csv", "a.wav"], "does not go with --csv"), (["--out", "x"], "which files"),
    (["--out", "x", "--cluster", "tcp://x:1", "--workers", "2", "a.wav"], "--workers"),
])  # fmt: skip
def test_wrong_use_is_told(args: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        classify.main(args, standalone_mode=False)
