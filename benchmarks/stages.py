"""`stages`: decode, resample, mel and each model in each precision and engine, each alone in a process of one thread.

All figures have one unit, CPU-ms per second of audio at 50 % overlap, so that the stages of a pipeline add up.
What a stage does is in `stage_probes.py`. Start at `run`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_models, stage_probes
from benchmarks.accounting import Account, Spread, figure, spread
from benchmarks.material import Material
from benchmarks.report import Report, bars
from benchmarks.run_process import run as run_single
from benchmarks.stage_probes import HOP_S
from services.errors import GenreError
from services.inference.card import load_card, model_names
from services.supervisor import triton_server
from services.supervisor.children import Plan
from services.supervisor.processes import ProcessGroup

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}
TRITON_CALLS = 200


def run(
    out: Path, models_dir: Path, music: Path | None, repeats: int, only: str, triton: bool, say: Callable[[str], None]
) -> Path:
    """Measure every stage and write the report; return its folder."""
    material = Material.made(out / "material", music)
    models = bench_models.made(out / "material", models_dir, material.hls)
    keras_file = out / "material" / bench_models.KERAS_FILE
    report = Report("stages", out, {"repeats": repeats, "only": only})
    found: dict[str, Spread] = {}
    memory: dict[str, float] = {}
    for name in stage_probes.names(models):
        if only not in name:
            continue
        argv = [
            sys.executable, "-m", "benchmarks.stage_probes", name,
            str(material.hls), str(models), str(keras_file), str(repeats),
        ]  # fmt: skip
        ran = run_single(argv, ONE_THREAD)
        found[name] = spread(result["cpu_ms_per_audio_s"] for result in ran.results)
        memory[name] = ran.peak_mib
        say(f"{name}: {figure(found[name].median)} CPU-ms per audio-s")
    for model in model_names(models) if triton else []:
        name = f"triton {model}"
        if only in name:
            found[name], memory[name] = _triton(models, model, repeats)
            say(f"{name}: {figure(found[name].median)} CPU-ms per audio-s")
    report.values["cpu_ms_per_audio_s"] = {name: value.to_json() for name, value in found.items()}
    report.values["peak_mib"] = memory
    rows = [
        [
            name,
            value,
            figure(value.median * HOP_S),
            figure(1000 / value.median),
            figure(memory[name]),
        ]
        for name, value in found.items()
    ]
    heads = ["stage", "CPU-ms per audio-s", "CPU-ms per window", "audio-s/CPU-s", "peak MiB"]
    say(report.table("Each stage alone, one thread, 50 % overlap: median (range)", heads, rows))
    chart = {name: (value.median, value.least, value.largest) for name, value in found.items()}
    if chart:
        bars(report.picture("stages"), "CPU of each stage", "CPU-ms per second of audio (log scale)", chart, log=True)
    return report.save()


def _triton(models: Path, model: str, repeats: int) -> tuple[Spread, float]:
    """Ask a Triton server window by window over gRPC; the server's and the client's CPU are counted."""
    from services.inference.triton_backend import TritonBackend

    card = load_card(models, model)
    noise = np.random.default_rng(0)
    x = {name: noise.random((1, *shape), np.float32) for name, shape in card.recipe.shapes.items()}
    group = ProcessGroup()
    with tempfile.TemporaryDirectory(prefix="genre-bench-") as folder:
        plan = Plan(Path(folder))
        ports = plan.port("triton-http"), plan.port("triton"), plan.port("triton-metrics")
        child = triton_server.child(triton_server.find(), models, model, plan.folder / "t", ports, plan.log("triton"))
        try:
            group.add(child)
            backend = TritonBackend(card, f"127.0.0.1:{ports[1]}", 10.0)
            backend.wait_ready(60.0)
            if child.process is None:
                raise GenreError("Triton", "did not start", "see its log")
            values: list[float] = []
            used: dict[str, Any] = {}
            for _ in range(repeats):
                account, own, calls, began = (
                    Account({"triton": child.process.pid}),
                    time.process_time(),
                    0,
                    time.monotonic(),
                )
                while calls < TRITON_CALLS and time.monotonic() - began < 3.0:
                    backend.answer(x)
                    calls += 1
                used = account.since_start()
                values.append(1000 * (used["triton"].cpu_s + time.process_time() - own) / (calls * HOP_S))
            backend.close()
            return spread(values), used["triton"].peak_mib
        finally:
            group.end()
