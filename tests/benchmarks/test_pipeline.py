"""What the benchmarks compare is the same work: the same windows of the same stream; every process is accounted for."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import replicas, run_process, stage_probes
from benchmarks.material import Material
from benchmarks.pipeline import Stage
from benchmarks.run_process import ROOT
from benchmarks.services_run import Field
from services.contract.windows import SAMPLE_RATE, WINDOW
from services.settings.schema import Fetcher
from tests.chaos.streams import tiny_model, write_music

HEAVY = ("tensorflow", "keras", "librosa", "numba", "matplotlib", "pandas", "sklearn")
SERVICES = ("fetcher", "featurizer", "inference")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("bench")
    tiny_model(folder / "models")
    material = Material.made(folder / "material", write_music(folder / "music", {"one": 14.0}))
    running = Stage(material, folder / "models", folder / "none.keras", 0.01)
    yield running
    running.close()


@pytest.mark.timeout(300)
def test_one_process_and_services_hear_the_same_windows_and_say_the_same(stage: Stage) -> None:
    excerpt = stage.excerpt("tiny")
    argv = [sys.executable, "-m", "benchmarks.in_process_pipeline", stage.url(excerpt)]
    one = stage.single(excerpt, [*argv, "--model", "tiny", "--models-dir", str(stage.models)])
    many = stage.services(excerpt, "tiny", "onnx")
    samples = round(excerpt.seconds * SAMPLE_RATE)
    assert one["results"] == many["results"] == 1 + -(-(samples - WINDOW) // Fetcher().window_hop)
    assert one["genres"] == many["genres"]
    assert set(many["processes"]) == {"broker", *(f"{name}-1" for name in SERVICES)}
    assert all(process["peak_mib"] > 1 for process in many["processes"].values())
    # Each window crosses the bus as audio and as a tensor, in and out.
    assert many["mqtt_bytes"] > 2 * 2 * samples and one["mqtt_bytes"] == 0
    assert one["http_bytes"] > 0 and many["http_connections"] >= 1


@pytest.mark.timeout(300)
def test_a_running_service_imports_nothing_heavy(stage: Stage) -> None:
    traced = {name: ["env", "PYTHONPROFILEIMPORTTIME=1"] for name in SERVICES}
    with Field("tiny", stage.models, "onnx", prefix=traced) as field:
        field.listen({"one": stage.url(stage.excerpt("tiny"))})
        field.wait_ended(["one"], 120)
        logs = {name: field.plan.log(f"{name}-1").read_text(errors="replace") for name in SERVICES}
    for name, log in logs.items():
        imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in log.splitlines() if line.count("|") == 2}
        assert "numpy" in imported, f"{name}: the trace is empty"
        assert not imported & set(HEAVY), f"{name} imports {imported & set(HEAVY)}"


def test_the_script_of_today_hears_the_same_grid_of_windows() -> None:
    source = ast.parse((ROOT / "benchmarks" / "baseline_script.py").read_text())
    found = {
        node.targets[0].id: node.value.value
        for node in source.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert (found["SAMPLE_RATE"], found["WINDOW"], found["HOP"]) == (SAMPLE_RATE, WINDOW, Fetcher().window_hop)


def test_an_excerpt_is_as_long_as_asked_in_whole_segments(stage: Stage, tmp_path: Path) -> None:
    excerpt = stage.material.excerpt(7.0, (128, 64))
    text = (stage.material.hls / excerpt.path).read_text()
    assert 7.0 <= excerpt.seconds <= 13.0 and excerpt.segments == 2
    assert text.count("#EXT-X-STREAM-INF") == 2


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["featurizer", "inference"])
def test_a_service_can_be_measured_alone(stage: Stage, kind: str) -> None:
    found = replicas.worker(stage.material, stage.models, "tiny", kind, 1, 1.0)
    assert found["windows_per_s"] > 0 and found["cpu_ms_per_window"] > 0


def test_the_stages_of_the_services_can_be_measured(stage: Stage) -> None:
    """Those that use the services' own code; what only others' libraries do changes with them."""
    hls, ours = str(stage.material.hls), ("hear", "mels of", "levels", "onnx")
    names = [name for name in stage_probes.names(stage.models) if name.startswith(ours)]
    assert len(names) >= len(ours)
    for name in names:
        argv = [sys.executable, "-m", "benchmarks.stage_probes", name, hls, str(stage.models), "none.keras", "1"]
        [result] = run_process.run(argv).results
        assert result["cpu_ms_per_audio_s"] > 0, name
