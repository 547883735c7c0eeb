"""The instruments themselves: CPU of whole trees, counted bytes, a Jetson's monitors, verdicts, reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from benchmarks.accounting import Account, percentile, spread
from benchmarks.cli import bench
from benchmarks.power import Meter, gpu_load, rails_w
from benchmarks.report import Report, bars
from benchmarks.rigs import proxy
from benchmarks.rigs.network import Network
from benchmarks.run_process import run
from benchmarks.targets import Case, judged, ratios_of
from services.errors import GenreError
from services.origin.server import Origin

BURN = "import time\nwhile time.process_time() < 0.4: pass\n"


def test_the_cpu_of_a_child_that_ended_is_counted() -> None:
    code = (
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {BURN!r}])\nprint('done', flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        account = Account({"tree": process.pid})
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        assert account.since_start()["tree"].cpu_s >= 0.4
        process.stdin.close()


def test_a_run_counts_its_work_and_not_its_start() -> None:
    code = (
        BURN
        + "print('{\"ready\": true}', flush=True)\n"
        + BURN.replace("0.4", "0.8")
        + "print('{\"n\": 1}', flush=True)"
    )
    ran = run([sys.executable, "-c", code])
    assert ran.results == [{"n": 1}]
    assert ran.start_cpu_s >= 0.39 and 0.3 <= ran.cpu_s <= ran.start_cpu_s + 0.6


def test_a_run_that_fails_is_named_with_its_last_words() -> None:
    with pytest.raises(GenreError, match="no music today"):
        run([sys.executable, "-c", "raise SystemExit('no music today')"])


def test_the_proxy_counts_connections_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_bytes(bytes(100_000))
    origin = Origin(tmp_path).start()
    try:
        with proxy.Running(origin.url.removeprefix("http://")) as between:
            url = f"http://127.0.0.1:{between.port}/a.ts"
            for _ in range(3):
                assert len(requests.get(url, timeout=10).content) == 100_000
            apart = between.counts()
            with requests.Session() as session:
                for _ in range(3):
                    session.get(url, timeout=10)
            together = between.counts()
    finally:
        origin.close()
    assert (apart.connections, together.connections) == (3, 1)
    assert apart.received >= 300_000 and together.received >= 300_000


def test_a_jetsons_monitors_are_read_and_absent_elsewhere(tmp_path: Path) -> None:
    assert rails_w(tmp_path) == {} and gpu_load(tmp_path) is None
    with Meter(tmp_path) as meter:
        pass
    assert meter.read() is None
    new = tmp_path / "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    old = tmp_path / "bus/i2c/drivers/ina3221x/0-0041/iio:device1"
    gpu = tmp_path / "devices/platform/17000000.gpu"
    for folder in (new, old, gpu):
        folder.mkdir(parents=True)
    for name, text in {"in1_label": "VDD_IN", "in1_input": "5000", "curr1_input": "1500"}.items():
        (new / name).write_text(text + "\n")
    (new / "in2_label").write_text("NC\n")  # without a current: not connected
    (old / "rail_name_0").write_text("POM_5V_GPU\n")
    (old / "in_power0_input").write_text("2500\n")
    (gpu / "load").write_text("430\n")
    assert rails_w(tmp_path) == {"VDD_IN": 7.5, "POM_5V_GPU": 2.5}
    with Meter(tmp_path) as meter:
        pass
    drawn = meter.read()
    assert drawn is not None and (drawn.watts, drawn.gpu) == (7.5, 0.43)


def repeat(rate: float, peak: float = 100.0, start: float = 1.0) -> dict[str, object]:
    processes = {"fetcher-1": {"cpu_s": 1.0, "peak_mib": peak, "start_s": start}}
    return {"audio_s_per_cpu_s": rate, "cpu_ms_per_audio_s": 1000 / rate, "processes": processes}


def test_goals_are_judged_against_the_script_of_the_same_repeat() -> None:
    def case(name: str, model: str, *rates: float, **process: float) -> Case:
        return Case(name, model, dict, 60.0, [repeat(rate, **process) for rate in rates])

    cases = [
        case("(a) script of today", "", 10.0, 5.0),
        case("(b) one process, vgg16", "vgg16", 100.0, 50.0),
        case("(c) services, vgg16, onnx", "vgg16", 90.0, 44.0, peak=131.0),
    ]
    ratios = ratios_of(cases)
    assert ratios["(c) services, vgg16, onnx"].median == pytest.approx(8.9)
    verdicts = {goal["goal"]: goal["met"] for goal in judged(cases, ratios, {"genre-sounds, onnx": {"p99_ms": 151.0}})}
    assert verdicts == {
        "(c) services, vgg16, onnx: x script": True,
        "(c) services, vgg16, onnx: CPU over (b)": True,
        "(c) services, vgg16, onnx: fetcher-1": False,
        "latency p99, one live stream, genre-sounds, onnx": False,
    }


def test_medians_ranges_and_percentiles_are_of_what_was_measured() -> None:
    assert str(spread([3.0, 1.0, 2.0])) == "2.00 (1.00-3.00)"
    assert percentile(range(1, 101), 0.99) == 99 and percentile([5.0], 0.99) == 5.0
    with pytest.raises(ValueError, match="no measurement"):
        spread([])


def test_a_report_says_machine_and_versions_and_can_be_read_again(tmp_path: Path) -> None:
    report = Report("example", tmp_path, {"repeats": 1})
    text = report.table("A table", ["", "ms"], [["one", 1.5]])
    bars(report.picture("one"), "Bars", "ms", {"one": (1.5, 1.0, 2.0)}, {"one": 1.2}, log=True)
    folder = report.save()
    values = json.loads((folder / "results.json").read_text())
    assert (
        values["machine"]["processor"]
        and values["machine"]["packages"]["numpy"]
        and values["options"] == {"repeats": 1}
    )
    assert "| one | 1.5 |" in text and text in (folder / "tables.md").read_text()
    assert (folder / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_results_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(GenreError, match="can't be written"):
        Report("example", tmp_path / "file", {})


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2")
def test_hosts_are_namespaces_that_reach_this_machine_and_go_again() -> None:
    with Network(("far",)) as hosts:
        name = hosts.prefix("far")[-1]
        found = subprocess.run(
            [*hosts.prefix("far"), "ip", "route", "get", hosts.gateway], capture_output=True, text=True, check=False
        )
        if found.returncode:
            pytest.skip(f"no routes in namespaces here: {found.stderr.strip()}")
        assert "eth0" in found.stdout and hosts.bytes("far") >= 0
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert name not in left


@pytest.mark.parametrize("words", [[], ["pipeline"], ["http"], ["stages"], ["all"], ["scale"], ["scale", "streams"]])
def test_every_benchmark_explains_itself_with_an_example(words: list[str]) -> None:
    said = CliRunner().invoke(bench, [*words, "--help"])
    assert said.exit_code == 0 and "Example: " in said.output
