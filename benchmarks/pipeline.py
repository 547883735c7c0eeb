"""The same HLS audio through (a) the script of today, (b) our pipeline in one process, (c) our services over Mosquitto.

All of them in one run, interleaved and repeated, so that their ratios hold whatever else the machine does. The origin
and the counting proxy are nobody's cost. Start at `run`; the goals stand in `targets.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bench_models
from benchmarks.accounting import figure, percentile
from benchmarks.material import Excerpt, Material
from benchmarks.report import Report, bars
from benchmarks.rigs import proxy
from benchmarks.run_process import ROOT, Ran
from benchmarks.run_process import run as run_single
from benchmarks.services_run import Field
from benchmarks.targets import GOALS, Case, judged, ratios_of
from services.errors import GenreError
from services.origin.server import Origin

SCRIPT = "script of today"
VGG16 = ("vgg16_fp32", "vgg16")
_SECONDS = {SCRIPT: 120.0, "vgg16_fp32": 120.0, "vgg16": 180.0, "genre-sounds": 180.0}
"""Audio that each hears; whatever is not named is fast and hears all there is."""


class Stage:
    """Origin, counting proxy and models that every case shares."""

    def __init__(self, material: Material, models: Path, keras_file: Path, scale: float) -> None:
        self.material, self.models, self.keras_file, self.scale = material, models, keras_file, scale
        self.origin = Origin(material.hls).start()
        self.proxy = proxy.Running(self.origin.url.removeprefix("http://"))

    def close(self) -> None:
        """Stop them."""
        self.proxy.__exit__(None, None, None)
        self.origin.close()

    def url(self, excerpt: Excerpt) -> str:
        """Return the URL of an excerpt, through the proxy."""
        return f"http://127.0.0.1:{self.proxy.port}/{excerpt.path}"

    def excerpt(self, model: str) -> Excerpt:
        """Return as much music as a case of that model hears."""
        return self.material.excerpt(max(12.0, _SECONDS.get(model, 660.0) * self.scale))

    def single(self, excerpt: Excerpt, argv: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
        """Run (a) or (b)."""
        self.proxy.counts()
        ran: Ran = run_single(argv, env)
        counts = self.proxy.counts()
        return {
            "audio_s_per_cpu_s": excerpt.seconds / ran.cpu_s,
            "cpu_ms_per_audio_s": 1000 * ran.cpu_s / excerpt.seconds,
            "cpu_s": ran.cpu_s,
            "wall_s": ran.wall_s,
            "start_cpu_s": ran.start_cpu_s,
            "start_s": ran.start_s,
            "results": len(ran.results),
            "genres": [result["genre"] for result in ran.results],
            "processes": {"all": {"cpu_s": ran.cpu_s, "peak_mib": ran.peak_mib}},
            "http_connections": counts.connections,
            "http_bytes": counts.sent + counts.received,
            "mqtt_bytes": 0,
        }

    def services(
        self, excerpt: Excerpt, model: str, backend: str, overrides: dict[str, dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        """Run (c), with these sections of the configuration if any."""
        with Field(model, self.models, backend, overrides=overrides) as field_:
            self.proxy.counts()
            account, before, began = field_.account(), field_.mqtt_bytes(), time.monotonic()
            field_.listen({"one": self.url(excerpt)})
            field_.wait_ended(["one"], 300)
            wall_s = time.monotonic() - began
            used, after = account.since_start(), field_.mqtt_bytes()
            counts = self.proxy.counts()
            cpu_s = sum(use.cpu_s for use in used.values())
            results = sorted(field_.seen.results, key=lambda heard: heard.start_s)
            return {
                "audio_s_per_cpu_s": excerpt.seconds / cpu_s,
                "cpu_ms_per_audio_s": 1000 * cpu_s / excerpt.seconds,
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "start_cpu_s": sum(cpu for _, cpu in field_.start.values()),
                "start_s": max(seconds for seconds, _ in field_.start.values()),
                "results": len(results),
                "genres": [heard.genre for heard in results],
                "processes": {
                    name: {
                        "cpu_s": use.cpu_s,
                        "peak_mib": use.peak_mib,
                        "start_s": field_.start.get(name, (0.0, 0.0))[0],
                    }
                    for name, use in used.items()
                },
                "http_connections": counts.connections,
                "http_bytes": counts.sent + counts.received,
                "mqtt_bytes": sum(after) - sum(before),
            }


def cases_of(stage: Stage, models: list[str], backends: list[str]) -> list[Case]:
    """Return every case, (a) first."""
    heard = stage.excerpt(SCRIPT)
    script = [sys.executable, str(ROOT / "benchmarks" / "baseline_script.py"), stage.url(heard), str(stage.keras_file)]
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    cases = [
        Case("(a) script of today", SCRIPT, lambda: stage.single(heard, script, quiet), heard.seconds),
        Case("(a') script, batched", SCRIPT, lambda: stage.single(heard, [*script, "--batch"], quiet), heard.seconds),
    ]
    for model in models:
        excerpt = stage.excerpt(model)
        one = [
            sys.executable, "-m", "benchmarks.in_process_pipeline", stage.url(excerpt),
            "--model", model, "--models-dir", str(stage.models),
        ]  # fmt: skip
        cases.append(
            Case(f"(b) one process, {model}", model, lambda e=excerpt, a=one: stage.single(e, a), excerpt.seconds)  # type: ignore[misc]
        )
        for backend in backends:
            cases.append(
                Case(
                    f"(c) services, {model}, {backend}",
                    model,
                    lambda e=excerpt, m=model, b=backend: stage.services(e, m, b),  # type: ignore[misc]
                    excerpt.seconds,
                )
            )
    return cases


def latency(stage: Stage, model: str, backend: str, seconds: float) -> dict[str, Any]:
    """Listen to one live stream at its own pace and return the latency of its results in ms."""
    stage.material.live()
    with Field(model, stage.models, backend) as field_:
        field_.listen({"live": f"http://127.0.0.1:{stage.proxy.port}/live/onair.m3u8"})
        # The start, where three segments and more come at once, is not what a listener meets: it ends with the first
        # pause between two segments.
        field_.wait(lambda: len(field_.seen.results) >= 12, 60, "no result of the live stream")
        field_.wait(lambda: time.time() - field_.seen.results[-1].at > 2.0, 60, "the live stream has no pause")
        skip = len(field_.seen.results)
        want = skip + max(4, int(seconds / 1.5))
        field_.wait(lambda: len(field_.seen.results) >= want, 3 * seconds + 30, "the live stream fell behind")
        values = [heard.latency_ms for heard in field_.seen.results[skip:want]]
    return {
        "p50_ms": percentile(values, 0.5),
        "p95_ms": percentile(values, 0.95),
        "p99_ms": percentile(values, 0.99),
        "max_ms": max(values),
        "results": len(values),
    }


def run(
    out: Path,
    models_dir: Path,
    music: Path | None,
    models: list[str],
    backends: list[str],
    repeats: int,
    scale: float,
    live_s: float,
    say: Callable[[str], None],
) -> Path:
    """Measure everything and write the report; return its folder."""
    material = Material.made(out / "material", music)
    repository = bench_models.made(out / "material", models_dir, material.hls)
    report = Report("pipeline", out, {"models": models, "backends": backends, "repeats": repeats, "scale": scale})
    stage = Stage(material, repository, out / "material" / bench_models.KERAS_FILE, scale)
    try:
        cases = cases_of(stage, models, backends)
        for repeat in range(repeats):
            for case in cases:
                case.repeats.append(case.run())
                say(
                    f"{repeat + 1}/{repeats} {case.name}: {figure(case.repeats[-1]['audio_s_per_cpu_s'])} audio-s/CPU-s"
                )
        live = {}
        for model in models if live_s > 0 else []:
            for backend in backends:
                try:
                    live[f"{model}, {backend}"] = latency(stage, model, backend, live_s)
                    say(f"latency {model}, {backend}: {figure(live[f'{model}, {backend}']['p99_ms'])} ms p99")
                except GenreError as error:  # a finding, not the end: the rest was measured and is kept
                    report.values.setdefault("not_measured", {})[f"latency {model}, {backend}"] = str(error)
                    say(f"latency {model}, {backend}: not measured: {error}")
    finally:
        stage.close()
    _write(report, cases, live, say)
    return report.save()


def _write(report: Report, cases: list[Case], live: dict[str, Any], say: Callable[[str], None]) -> None:
    ratios = ratios_of(cases)
    report.values["cases"] = {
        case.name: {
            "model": case.model,
            "seconds": round(case.seconds, 3),
            "ratio_to_script": ratios[case.name].to_json(),
            "audio_s_per_cpu_s": case.spread("audio_s_per_cpu_s").to_json(),
            "repeats": [{k: v for k, v in repeat.items() if k != "genres"} for repeat in case.repeats],
        }
        for case in cases
    }
    report.values["live_latency"] = live
    rows = []
    for case in cases:
        last = case.repeats[-1]
        rows.append(
            [
                case.name,
                case.spread("audio_s_per_cpu_s"),
                ratios[case.name],
                figure(sum(process["peak_mib"] for process in last["processes"].values())),
                figure(case.spread("start_cpu_s").median),
                last["http_connections"],
                f"{last['http_bytes'] / case.seconds / 1000:.1f}",
                f"{last['mqtt_bytes'] / case.seconds / 1000:.0f}",
            ]
        )
    heads = ["", "audio-s/CPU-s", "x script", "peak MiB", "start CPU-s", "HTTP conn.", "HTTP kB/s", "MQTT kB/s"]
    say(report.table("One stream, as fast as it goes: median (range)", heads, rows))
    rows = [
        [
            case.name,
            *(
                f"{name} {p['peak_mib']:.0f} MiB, {1000 * p['cpu_s'] / case.seconds:.2f}"
                for name, p in case.repeats[-1]["processes"].items()
            ),
        ]
        for case in cases
        if case.name.startswith("(c)")
    ]
    width = max((len(row) for row in rows), default=1)
    rows = [row + [""] * (width - len(row)) for row in rows]
    say(report.table("Each process: peak memory, CPU-ms per second of audio", ["", *["process"] * (width - 1)], rows))
    rows = [
        [name, *(figure(v[key]) for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")), v["results"]]
        for name, v in live.items()
    ]
    if rows:
        title = "One live stream: ms from the last byte of a segment to the result at a subscriber"
        say(report.table(title, ["", "p50", "p95", "p99", "max", "results"], rows))
    goals = judged(cases, ratios, live)
    report.values["goals"] = goals
    rows = [[goal["goal"], goal["wanted"], goal["found"], "met" if goal["met"] else "NOT MET"] for goal in goals]
    say(report.table("Goals", ["goal", "wanted", "found", ""], rows))
    values = {name: (s.median, s.least, s.largest) for name, s in ratios.items()}
    marks = {c.name: GOALS[c.model] for c in cases if c.name.startswith("(c)") and c.model in GOALS}
    title = "Audio-seconds per CPU-second, as a multiple of the script of today"
    bars(report.picture("pipeline"), title, "x script of today (log scale)", values, marks, log=True)
