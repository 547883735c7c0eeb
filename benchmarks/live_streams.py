"""`scale streams`: live streams at their own pace, from one to hundreds; CPU of each, latency, memory, what keeps up.

The origin is a process of its own and nobody's cost. Start at `streams`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import bench_models
from benchmarks.accounting import figure, others_busy, percentile
from benchmarks.material import SEGMENT_S, Material, origin
from benchmarks.power import Meter
from benchmarks.report import Report, lines
from benchmarks.services_run import Field
from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError

HOP = 33_000
CATCH_UP_S = 120.0


def streams(
    out: Path, models_dir: Path, music: Path | None, model: str, backend: str, counts: list[int], hop: int,
    seconds: float, say: Callable[[str], None],
) -> Path:  # fmt: skip
    """Listen to more and more live streams at their own pace; return the report's folder."""
    material = Material.made(out / "material", music)
    models = bench_models.made(out / "material", models_dir, material.hls)
    material.live()
    name = f"streams-{model}" + ("" if hop == HOP else f"-hop{hop}")
    options = {"model": model, "backend": backend, "counts": counts, "hop": hop, "seconds": seconds}
    report = Report(name, out, options)
    found: list[dict[str, Any]] = []
    with origin(material) as url:
        for count in counts:
            found.append(_live(models, model, backend, url, count, hop, seconds))
            one = found[-1]
            say(f"{count} streams: {figure(one['cpu_ms_per_audio_s'])} CPU-ms per stream-s, p99 {one['p99_ms']:.0f} ms")
    report.values["streams"] = found
    rows = [
        [
            one["streams"], figure(one["cpu_ms_per_audio_s"]), figure(1000 / one["cpu_ms_per_audio_s"]),
            f"{100 * one['kept_up']:.0f} %", f"{one['p50_ms']:.0f}", f"{one['p99_ms']:.0f}",
            f"{one['rss_mib_fetcher']:.0f}", f"{100 * one['others_busy']:.0f} %",
            ", ".join(f"{n} {v:.2f}" for n, v in one["processes"].items()),
        ]
        for one in found
    ]  # fmt: skip
    if "watts" in found[0]:
        power = [[one["streams"], *(figure(one.get(key, float("nan"))) for key in ("watts", "watts_per_stream", "gpu"))]
                 for one in found]  # fmt: skip
        say(report.table("Power (INA3221)", ["streams", "W, board", "W a stream", "GPU in use"], power))
    else:
        report.values["power"] = "no INA3221 here: not measured"
    heads = ["streams", "CPU-ms/stream-s", "streams/core", "results in time", "p50 ms", "p99 ms", "fetcher MiB", "others", "CPU-ms/stream-s by process"]  # fmt: skip # noqa: E501
    say(report.table(f"Live streams, {model} on {backend}, hop {hop / SAMPLE_RATE:.2f} s", heads, rows))
    drawn = {"all processes": [one["cpu_ms_per_audio_s"] for one in found]}
    for process in found[0]["processes"]:
        drawn[process] = [one["processes"][process] for one in found]
    lines(report.picture("streams"), f"CPU of a live stream ({model})", ("streams", counts), "CPU-ms per second", drawn)
    return report.save()


def _live(models: Path, model: str, backend: str, url: str, count: int, hop: int, seconds: float) -> dict[str, Any]:
    """Listen to `count` live streams and account for `seconds` of them."""
    overrides = {"fetcher": {"window_hop": hop, "retry_failed_s": 0}}
    with Field(model, models, backend, overrides=overrides) as field:
        urls = {f"s{i:03d}": f"{url}/live/onair.m3u8?shift={i * 6.37:.2f}" for i in range(count)}
        field.listen(urls)
        expected = count * SAMPLE_RATE / hop

        # Each begins with three segments at once, and its next four reloads find their place between the others'
        # (services/fetcher/hls/reload.py): what is measured begins when all of that is answered.
        burst = int(8 * SEGMENT_S * SAMPLE_RATE / hop) - 1

        def past_the_start() -> bool:
            heard = Counter(one.stream for one in field.seen.results)
            return len(heard) == count and min(heard.values()) >= burst

        field.wait(past_the_start, 60 + 1.0 * count, "not every stream gets past its start")
        _catch_up(field, expected)
        account, began, before = field.account(), time.monotonic(), len(field.seen.results)
        with others_busy(lambda: sum(use.cpu_s for use in account.since_start().values())) as others, Meter() as meter:
            time.sleep(seconds)
        wall, results = time.monotonic() - began, field.seen.results[before:]
        used = account.since_start()
        # By what was answered, not by the clock: some of it may be of segments that came before the measurement.
        if not results:
            raise GenreError(
                "benchmark",
                f"{count} streams gave no result in {wall:.0f} s",
                field.look,
            )
        audio_s = len(results) * hop / SAMPLE_RATE
        latencies = [one.latency_ms for one in results]
        return {
            "streams": count,
            "seconds": wall,
            "cpu_ms_per_audio_s": 1000 * sum(use.cpu_s for use in used.values()) / audio_s,
            "processes": {name: 1000 * use.cpu_s / audio_s for name, use in used.items()},
            "kept_up": len(results) / (expected * wall),
            "p50_ms": percentile(latencies, 0.5),
            "p95_ms": percentile(latencies, 0.95),
            "p99_ms": percentile(latencies, 0.99),
            "rss_mib_fetcher": used["fetcher-1"].peak_mib,
            "peak_mib": {name: use.peak_mib for name, use in used.items()},
            "others_busy": others[0],
            **_drawn(meter, count),
        }


def _catch_up(field: Field, per_s: float) -> None:
    """Wait while results still come faster than audio does; where that lasts for CATCH_UP_S, what follows tells it."""
    deadline = time.monotonic() + CATCH_UP_S
    while time.monotonic() < deadline:
        before = len(field.seen.results)
        time.sleep(SEGMENT_S)
        if len(field.seen.results) - before <= 1.05 * per_s * SEGMENT_S:
            return


def _drawn(meter: Meter, count: int) -> dict[str, float]:
    """Return what a Jetson drew, of the board and a stream; nothing elsewhere."""
    drawn = meter.read()
    if drawn is None:
        return {}
    gpu = {} if drawn.gpu is None else {"gpu": drawn.gpu, "gpu_per_stream": drawn.gpu / count}
    return {"watts": drawn.watts, "watts_per_stream": drawn.watts / count, **gpu}
