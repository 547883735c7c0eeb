"""`genre up` as a user runs it: real processes from broker to results, exact ledgers, clear ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.contract.messages import Ledger, Result
from services.contract.windows import WINDOW
from services.errors import GenreError
from services.origin.packager import Packaging, package_folder
from services.supervisor import triton_server
from tests.broker.mosquitto import PROGRAM, free_port, wait_for
from tests.chaos.streams import write_music
from tests.shared_data import shared

pytestmark = [pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed"), pytest.mark.timeout(240)]
HOP = 33_000


@dataclass
class Finished:
    """What a run of `genre up` left behind."""

    code: int
    stdout: str
    stderr: str
    results: list[dict[str, Any]] = field(default_factory=list)
    ledger: dict[str, dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        for line in self.stdout.splitlines():
            values = json.loads(line)
            if "ledger" in values:
                assert self.ledger is None, "the ledger is the last line, once"
                self.ledger = values["ledger"]
            else:
                assert self.ledger is None
                self.results.append(values)

    def ids(self, stream: str) -> list[str]:
        return [result["id"] for result in self.results if result["stream"] == stream]


class Up:
    """One `genre up`, run in a folder of its own."""

    def __init__(self, folder: Path, models: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder / "run"
        config = folder / "genre.json"
        config.write_text(json.dumps({"inference": {"models_dir": str(models)}, "hls": {"connect_timeout_s": 2}}))
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "services.cli", "up", "--config", str(config), "--model", "tiny", "--json"),
                *("--folder", str(self.folder), *options),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        )

    def finish(self, timeout_s: float = 180) -> Finished:
        try:
            stdout, stderr = self.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGINT)
            stdout, stderr = self.process.communicate(timeout=60)
            logs = [f"{log}: {log.read_text()[-1500:]}" for log in (self.folder / "logs").glob("*.log")]
            raise AssertionError(f"not over in {timeout_s:g} s; {stderr}; {logs}") from None
        wait_for(lambda: not self.left(), f"every process is gone, but {self.left()} are there")
        return Finished(self.process.returncode, stdout, stderr)

    def left(self) -> list[str]:
        """Processes that name this run's folder."""
        lines = []
        for process in psutil.process_iter(["pid", "cmdline"]):
            line = " ".join(process.info["cmdline"] or [])
            if str(self.folder) in line and process.pid not in (os.getpid(), self.process.pid):
                lines.append(line)
        return lines

    def child(self, *words: str) -> psutil.Process | None:
        for process in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):  # it may just have ended
                line = " ".join(process.cmdline())
                if all(word in line for word in words):
                    return process
        return None


Start = Callable[..., Up]


@pytest.fixture
def start(tmp_path: Path, tiny_models: Path) -> Iterator[Start]:
    runs: list[Up] = []

    def run(*options: str, models: Path = tiny_models, **kept: Any) -> Up:
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        runs.append(Up(folder, models, *options, **kept))
        return runs[-1]

    yield run
    for each in runs:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


@pytest.fixture
def served() -> Iterator[Callable[[Path], str]]:
    """Serve a folder, return its URL."""
    servers: list[ThreadingHTTPServer] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    def serve(folder: Path) -> str:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def assert_exact(finished: Finished, stream: str, model: str = "tiny") -> None:
    """One epoch: the ids are those of the stated grid, and the ledger has every sample."""
    assert finished.ledger is not None
    ledger = finished.ledger[stream]
    samples = ledger["timeline"]
    assert ledger["causes"] == {}
    firsts = list(range(0, max(1, samples - WINDOW + 1), HOP))
    if samples > WINDOW and firsts[-1] != samples - WINDOW:
        firsts.append(samples - WINDOW)
    timeline = f"{stream}/{ledger['timeline_id']}"
    assert sorted(finished.ids(stream)) == sorted(f"{timeline}/0/{first}/{model}" for first in firsts)
    assert ledger == {
        "timeline_id": ledger["timeline_id"],
        "timeline": samples,
        "classified": samples,
        "gap": 0,
        "lost": 0,
        "short": 0,
        "windows": len(firsts),
        "results": len(firsts),
        "duplicates": ledger["duplicates"],
        "causes": {},
    }


@pytest.fixture(scope="module")
def on_onnx(music: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The music to its end on the onnx backend, with two featurizers."""
    folder = tmp_path_factory.mktemp("onnx")
    options = ("--music", str(music), "--backend", "onnx", "--until-end", "--replicas", "featurizer=2")
    return Up(folder, tiny_models, *options).finish()


def test_music_to_its_end_gives_every_window_once_and_an_exact_ledger(on_onnx: Finished) -> None:
    finished = on_onnx
    assert finished.code == 0, finished.stderr
    assert set(finished.ledger or {}) == {"long", "brief"}
    for stream in ("long", "brief"):
        assert_exact(finished, stream)
        assert abs(finished.ledger[stream]["timeline"] / 22_050 - {"long": 40, "brief": 2}[stream]) < 0.1  # type: ignore[index]
    for values in finished.results:
        result = Result.model_validate(values)
        assert abs(sum(result.scores.values()) - 1) < 0.01 and result.model == "tiny"
    assert [r["padded"] for r in finished.results if r["stream"] == "brief"] == [True]


def test_real_hls_streams_are_heard_to_their_end(start: Start, served: Callable[[Path], str]) -> None:
    url = served(shared("data", "hls-streams"))
    aac = next(shared("data", "hls-streams", "hls-raw-aac").glob("manifest.m3u8"))
    mp3 = sorted(shared("data", "hls-streams", "hls-raw-mp3").glob("*.m3u8"))[0]
    run = start(
        *("--stream", f"aac={url}/hls-raw-aac/{aac.name}", "--stream", f"mp3={url}/hls-raw-mp3/{mp3.name}"),
        *("--backend", "onnx", "--until-end"),
    )
    finished = run.finish()
    assert finished.code == 0, finished.stderr
    assert finished.ledger is not None
    for stream in ("aac", "mp3"):
        ledger = finished.ledger[stream]
        assert ledger["timeline"] == ledger["classified"] > WINDOW
        assert ledger["results"] == ledger["windows"] == len(set(finished.ids(stream)))


def triton_is_here() -> bool:
    try:
        triton_server.find()
    except GenreError:
        return False
    return True


@pytest.mark.skipif(not triton_is_here(), reason="no Triton on this machine")
def test_triton_gives_the_same_results_as_onnx(start: Start, music: Path, on_onnx: Finished) -> None:
    on_triton = start("--music", str(music), "--backend", "triton", "--until-end").finish()
    assert on_triton.code == 0, on_triton.stderr
    assert_exact(on_triton, "long")
    answers = [
        # Each run is a timeline of its own, whose name is in the ids.
        {(r["stream"], *r["id"].rsplit("/", 3)[1:]): (r["genre"], r["scores"]) for r in finished.results}
        for finished in (on_triton, on_onnx)
    ]
    assert answers[0] == answers[1]


def test_kill_9_of_every_part_changes_no_result(start: Start, tmp_path: Path) -> None:
    music = write_music(tmp_path / "music", {"a": 90.0, "b": 60.0})
    run = start("--music", str(music), "--backend", "onnx", "--until-end", "--replicas", "inference=2")
    for words in (("cli featurizer",), ("mosquitto",), ("cli inference", "--instance 2"), ("cli fetcher",)):
        victim = wait_for(partial(run.child, *words), f"{words} runs", 60)
        if words == ("cli featurizer",):
            wait_for(lambda: (run.folder / "state" / "a.cursor.json").exists(), "the first acks", 60)
        victim.kill()
    finished = run.finish()
    assert finished.code == 0, finished.stderr
    assert_exact(finished, "a")
    assert_exact(finished, "b")


@pytest.mark.parametrize("after", ["start", "broker", "fetcher", "result"])
def test_ctrl_c_at_any_moment_ends_everything(start: Start, music: Path, after: str) -> None:
    run = start("--music", str(music), "--backend", "onnx")
    if after == "broker":
        wait_for(lambda: run.child("mosquitto"), "the broker", 60)
    elif after == "fetcher":
        wait_for(lambda: run.child("cli fetcher"), "the fetcher", 60)
    elif after == "result":
        assert run.process.stdout is not None
        Result.model_validate_json(run.process.stdout.readline())
    else:
        wait_for(lambda: run.folder.exists(), "its folder", 60)
    run.process.send_signal(signal.SIGINT)
    finished = run.finish(60)
    assert finished.code in (0, 130), finished.stderr
    assert "Traceback" not in finished.stderr
    if after == "result":
        assert finished.ledger is not None and Ledger(stream="x").adds_up


def test_kill_9_of_genre_up_itself_leaves_no_process(start: Start, music: Path) -> None:
    run = start("--music", str(music), "--backend", "onnx")
    assert run.process.stdout is not None
    Result.model_validate_json(run.process.stdout.readline())
    assert len(run.left()) >= 4
    run.process.kill()
    run.process.communicate()
    wait_for(lambda: not run.left(), f"every process is gone, but {run.left()} are there")


def one_line(finished: Finished, code: int, *words: str) -> None:
    """The error is one line that names the thing, the reason and the remedy."""
    assert finished.code == code, finished.stderr
    last = finished.stderr.strip().splitlines()[-1]
    assert last.startswith("genre: ") and "; " in last and "Traceback" not in finished.stderr, finished.stderr
    for word in words:
        assert word in last, finished.stderr


def test_it_ends_with_all_its_children_when_who_reads_is_gone(start: Start, music: Path) -> None:
    """As in `genre up --json | head -1`."""
    up = start("--music", str(music), "--backend", "onnx")
    assert up.process.stdout is not None and up.process.stderr is not None
    assert json.loads(up.process.stdout.readline())["stream"]
    up.process.stdout.close()
    assert up.process.wait(60) == 1
    assert "Traceback" not in up.process.stderr.read()
    wait_for(lambda: not up.left(), f"every process is gone, but {up.left()} are there")


def test_a_port_in_use_is_named_with_its_option(start: Start, music: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        one_line(start("--music", str(music), "--port", f"broker={port}").finish(100), 1, str(port), "--port broker=N")


def test_a_second_one_in_the_same_folder_is_refused_and_edits_of_the_configuration_are_followed(
    start: Start, music: Path
) -> None:
    """One run for both: the first goes on as if there had been no second, and hears a stream that is added."""
    first = start("--music", str(music), "--backend", "onnx", "--no-dashboard")
    written, config = first.folder / "genre.json", first.folder.parent / "genre.json"
    wait_for(written.exists, "the first one's start", 60)
    before = written.read_bytes()
    argv = [
        sys.executable,
        "-m",
        "services.cli",
        "up",
        "--stream",
        "x=http://127.0.0.1:9/",
        "--folder",
        str(first.folder),
    ]
    second = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    words = str(first.folder), "another 'genre up' runs in it", str(first.process.pid), "another --folder"
    one_line(Finished(second.returncode, second.stdout, second.stderr), 1, *words)
    assert written.read_bytes() == before

    def names() -> set[str]:
        return {stream["name"] for stream in json.loads(written.read_text())["streams"]}

    heard = names()
    added = {"name": "added", "url": "http://127.0.0.1:9/added.m3u8"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "streams": [added]}))
    wait_for(lambda: names() == {*heard, "added"}, "the added stream")
    first.process.send_signal(signal.SIGINT)
    assert first.finish().code == 0


def test_a_missing_model_is_named(start: Start, music: Path, tmp_path: Path) -> None:
    one_line(start("--music", str(music), models=tmp_path / "nothing").finish(100), 1, "tiny", "is not in")


def test_a_model_whose_recipe_was_changed_is_refused(
    start: Start, music: Path, tiny_models: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_models, models)
    card = models / "tiny" / "card.json"
    card.write_text(re.sub(r'"n_fft": \d+', '"n_fft": 1024', card.read_text()))
    one_line(start("--music", str(music), models=models).finish(100), 1, "card.json", "recipe")


def test_a_folder_that_cannot_be_written_is_named(start: Start, music: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = start("--music", str(music), "--folder", str(tmp_path / "file" / "x"))
    one_line(run.finish(100), 1, "--folder")


def test_without_mosquitto_the_remedy_is_given(music: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.supervisor import children

    monkeypatch.setattr(children.shutil, "which", lambda *args, **options: None)
    plan = children.Plan(tiny_models.parent / "plan")
    with pytest.raises(GenreError, match=r"Mosquitto: is not installed; .*make setup"):
        children.broker(plan)


def test_nothing_to_listen_to_is_a_usage_error(start: Start, tmp_path: Path) -> None:
    one_line(start().finish(100), 2, "--stream NAME=URL")
    (tmp_path / "empty").mkdir()
    assert start("--music", str(tmp_path / "empty"), "--until-end").finish(60).code in (1, 2)


class Unhelpful(BaseHTTPRequestHandler):
    """Answers each path with what goes wrong on the internet."""

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        status, body = {
            "/401.m3u8": (401, b"who are you"),
            "/html.m3u8": (200, b"<html><body>Sign in</body></html>"),
            "/garbage.m3u8": (200, bytes(range(256)) * 20),
            "/empty.m3u8": (200, b""),
        }.get(self.path, (404, b"no"))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_sources_that_do_not_work_are_each_named_and_the_exit_code_is_1(start: Start) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unhelpful)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_address[1]}"
    names = ("404", "401", "html", "garbage", "empty")
    options = [part for name in names for part in ("--stream", f"s{name}={base}/{name}.m3u8")]
    options += ["--stream", f"refused=http://127.0.0.1:{free_port()}/x.m3u8"]
    finished = start(*options, "--backend", "onnx", "--until-end").finish(120)
    server.shutdown()
    server.server_close()
    assert finished.code == 1 and finished.results == []
    for name in ("s404", "s401", "shtml", "sgarbage", "sempty", "refused"):
        assert f"stream {name}: " in finished.stderr, finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_second_run_in_the_same_folder_says_that_all_was_heard_before(
    start: Start, music: Path, tmp_path: Path, served: Callable[[Path], str]
) -> None:
    package_folder(music, tmp_path / "hls", Packaging(coder="fast"))
    options = ("--stream", f"long={served(tmp_path / 'hls')}/long.m3u8", "--backend", "onnx", "--until-end")
    kept = ("--folder", str(tmp_path / "kept"))
    first = start(*options, *kept).finish()
    assert first.code == 0 and first.results
    second = start(*options, *kept).finish()
    assert second.code == 0 and second.results == [], second.stderr
    assert "stream long: heard to its end before" in second.stderr and "hear-again long" in second.stderr
