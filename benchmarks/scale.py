"""`scale`: each service alone from one replica to several, live streams from one to hundreds, one host and several.

A service is measured alone by feeding it what the others would send and taking what it gives (`Feed`), so that
nothing but its replicas changes. Live streams come from an origin at their own pace. Start at `replicas`, `streams`
and `hosts`.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import bench_models
from benchmarks.accounting import figure, percentile, spread
from benchmarks.material import Material
from benchmarks.namespaces import Hosts
from benchmarks.report import Report, lines
from benchmarks.services_run import Field
from services.bus import Delivery
from services.contract import SAMPLE_RATE, WINDOW, Ack, MelTensor, Message, PcmChunk, Stretch
from services.errors import GenreError
from services.featurizer.recipe import Recipe
from services.inference.card import load_card

HOP = 33_000
WINDOWS = 4
"""In a message, as the fetcher makes them of 6-s segments."""
REPLY_TO = "bench"
IN_FLIGHT = 24


class Feed:
    """Keeps a service busy: publishes messages, bounded, and counts what comes back.

    Args:
        kind: "featurizer" gets PCM chunks and gives tensors; "inference" gets tensors and gives acks.
    """

    def __init__(self, field: Field, kind: str, recipe: Recipe) -> None:
        self._field, self._kind, self._recipe = field, kind, recipe
        self._room = threading.Semaphore(IN_FLIGHT)
        self._stop = threading.Event()
        self._sent = 0
        self.done = 0
        self._pcm = (np.random.default_rng(0).normal(0, 3000, WINDOW + (WINDOWS - 1) * HOP)).astype(np.int16)
        self._features = np.random.default_rng(0).random((WINDOWS, *recipe.shape), np.float32)
        topics = field.topics
        returned = topics.mel(recipe.id, "+") if kind == "featurizer" else topics.acks(REPLY_TO)
        field.bus.subscribe(returned, self._take)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._room.release()
        self._thread.join(10)

    def _take(self, delivery: Delivery) -> None:
        self._field.bus.ack(delivery)
        self.done += WINDOWS
        self._room.release()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._room.acquire()
            self._field.bus.publish(self._message())

    def _message(self) -> Message:
        first, self._sent = self._sent * WINDOWS * HOP, self._sent + 1
        stretch = Stretch(
            stream="bench", epoch=0, first_sample=first, windows=WINDOWS, hop=HOP,
            received_at=time.time(), observed_at=time.time(),
        )  # fmt: skip
        topics = self._field.topics
        chunk = PcmChunk(stretch, self._pcm, topics.acks(REPLY_TO))
        if self._kind == "featurizer":
            return chunk.to_message(topics)
        levels = (-20.0,) * WINDOWS
        recipe = self._recipe
        return MelTensor.of(chunk, self._features, levels, recipe.id, recipe.digest).to_message(topics)


def replicas(
    out: Path, models_dir: Path, music: Path | None, model: str, most: int, repeats: int, seconds: float,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """Scale featurizer, inference (onnx) and fetcher from 1 to `most` processes; return the report's folder."""
    material = Material.made(out / "material", music)
    models = bench_models.made(out / "material", models_dir, material.hls)
    report = Report("replicas", out, {"model": model, "most": most, "repeats": repeats, "seconds": seconds})
    found: dict[str, dict[int, list[dict[str, float]]]] = {}
    for repeat in range(repeats):
        for kind in ("featurizer", "inference", "fetcher"):
            for count in range(1, most + 1):
                measure = _fetchers if kind == "fetcher" else _workers
                one = measure(material, models, model, kind, count, seconds)
                found.setdefault(kind, {}).setdefault(count, []).append(one)
                say(f"{repeat + 1}/{repeats} {kind} x {count}: {figure(one['windows_per_s'])} windows/s")
    rows, drawn = [], {}
    for kind, counts in found.items():
        base = spread(one["windows_per_s"] for one in counts[1]).median
        drawn[kind] = [spread(o["windows_per_s"] for o in counts[n]).median / base for n in counts]
        for count, repeated in counts.items():
            rate = spread(one["windows_per_s"] for one in repeated)
            cpu = spread(one["cpu_ms_per_window"] for one in repeated)
            busy = spread(one["others_busy"] for one in repeated)
            rows.append([kind, count, rate, f"{rate.median / base:.2f}", cpu, f"{100 * busy.median:.0f} %"])
    report.values["replicas"] = {kind: {str(n): ones for n, ones in counts.items()} for kind, counts in found.items()}
    heads = ["service", "replicas", "windows/s", "x one", "CPU-ms/window", "CPU used by others"]
    say(report.table(f"Replicas of one service, the rest fixed ({model}): median (range)", heads, rows))
    counts_ = list(range(1, most + 1))
    lines(
        report.picture("replicas"), "Throughput of more replicas", ("replicas", counts_), "x one replica", drawn,
        {"ideal": counts_},
    )  # fmt: skip
    return report.save()


@contextmanager
def _others(used: Callable[[], float]) -> Iterator[list[float]]:
    """Note which share of all cores went to processes that are not `used`'s while the block ran."""
    share: list[float] = []
    before, mine, began = psutil.cpu_times(), used(), time.monotonic()
    yield share
    now = psutil.cpu_times()
    busy = sum(now) - sum(before) - (now.idle - before.idle) - (now.iowait - before.iowait)
    cores = (psutil.cpu_count() or 1) * (time.monotonic() - began)
    share.append(max(0.0, min(1.0, (busy - (used() - mine)) / cores)))


def _workers(material: Material, models: Path, model: str, kind: str, count: int, seconds: float) -> dict[str, float]:
    """Feed some replicas of one worker and return how they did."""
    names = {"fetcher": 0, "featurizer": 0, "inference": 0, kind: count}
    with Field(model, models, "onnx", names) as field:
        feed = Feed(field, kind, load_card(models, model).recipe)
        feed.start()
        try:
            field.wait(lambda: feed.done >= 8 * count * WINDOWS, 60, f"{kind} gives nothing")
            account = field.account()
            done, began = feed.done, time.monotonic()
            with _others(lambda: sum(use.cpu_s for use in account.since_start().values())) as others:
                time.sleep(seconds)
            wall, done = time.monotonic() - began, feed.done - done
            used = account.since_start()
        finally:
            feed.stop()
        cpu = sum(use.cpu_s for name, use in used.items() if name.startswith(kind))
    return {
        "windows_per_s": done / wall,
        "cpu_ms_per_window": 1000 * cpu / max(1, done),
        "broker_cpu_ms_per_window": 1000 * used["broker"].cpu_s / max(1, done),
        "others_busy": others[0],
    }


def _fetchers(material: Material, models: Path, model: str, kind: str, count: int, seconds: float) -> dict[str, float]:
    """Let some fetchers hear VOD streams as fast as their chunks are acknowledged; return how they did."""
    excerpt = material.excerpt(660)
    done = [0]
    with (
        Field(model, models, "onnx", {"fetcher": 0, "featurizer": 0, "inference": 0}) as field,
        origin(material) as url,
    ):

        def take(delivery: Delivery) -> None:
            chunk = PcmChunk.from_message(delivery.message)
            field.bus.publish(Ack(chunk.stretch.chunk, "done").to_message(chunk.reply_to))
            field.bus.ack(delivery)
            done[0] += chunk.stretch.windows

        field.bus.subscribe(field.topics.pcm("+"), take)
        for number in range(1, count + 1):
            plan_file = field.folder / f"fetcher-{number}.json"
            values = field.config.model_dump(mode="json", exclude_none=True)
            values["streams"] = [{"name": f"s{number}-{i}", "url": f"{url}/{excerpt.path}"} for i in range(4)]
            values["paths"] = {"state_dir": str(field.folder / f"state-{number}")}
            _write_config(field, plan_file, values)
            field.add("fetcher", str(number), plan_file)
        field.wait(lambda: done[0] > 20, 30, "the fetchers give nothing")
        account, before, began = field.account(), done[0], time.monotonic()
        with _others(lambda: sum(use.cpu_s for use in account.since_start().values())) as others:
            time.sleep(min(seconds, 6.0))  # they are fast: longer, and the streams would end
        wall, windows = time.monotonic() - began, done[0] - before
        used = account.since_start()
        cpu = sum(use.cpu_s for name, use in used.items() if name.startswith("fetcher"))
    return {
        "windows_per_s": windows / wall,
        "cpu_ms_per_window": 1000 * cpu / max(1, windows),
        "broker_cpu_ms_per_window": 1000 * used["broker"].cpu_s / max(1, windows),
        "others_busy": others[0],
    }


def _write_config(field: Field, path: Path, values: dict[str, Any]) -> None:
    """Write one fetcher's own configuration."""
    import json

    path.touch(mode=0o600)
    path.write_text(json.dumps(values), encoding="utf-8")


@contextmanager
def origin(material: Material, host: str = "127.0.0.1") -> Iterator[str]:
    """Serve the music from a process of its own and yield its URL."""
    argv = [sys.executable, "-m", "services.origin.serve", str(material.hls), "--host", host]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise GenreError("origin", "did not start", "run python -m services.origin.serve by hand")
            yield url
        finally:
            process.terminate()


# --- streams ----------------------------------------------------------------------------------------------------------


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

        def heard() -> set[str]:
            return {one.stream for one in field.seen.results}

        field.wait(lambda: len(heard()) == count, 30 + 0.5 * count, "not every stream gives results")
        time.sleep(min(12.0, 3.0 + 0.1 * count))  # the first segments of each come at once: let that burst pass
        account, began, before = field.account(), time.monotonic(), len(field.seen.results)
        with _others(lambda: sum(use.cpu_s for use in account.since_start().values())) as others:
            time.sleep(seconds)
        wall, results = time.monotonic() - began, field.seen.results[before:]
        used = account.since_start()
        audio_s = count * wall
        latencies = [one.latency_ms for one in results] or [float("nan")]
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
        }


# --- hosts ------------------------------------------------------------------------------------------------------------


def hosts(
    out: Path, models_dir: Path, music: Path | None, model: str, repeats: int, say: Callable[[str], None]
) -> Path:
    """Run the same stream with all services on one host, and with each on a host of its own; return the report."""
    material = Material.made(out / "material", music)
    models = bench_models.made(out / "material", models_dir, material.hls)
    report = Report("hosts", out, {"model": model, "repeats": repeats})
    excerpt = material.excerpt(300)
    found: dict[str, list[dict[str, Any]]] = {"one host": [], "a host each": []}
    for repeat in range(repeats):
        for spot in found:
            with ExitStack() as stack:
                parts = ("fetcher", "featurizer", "inference")
                apart = stack.enter_context(Hosts(parts)) if spot == "a host each" else None
                url = stack.enter_context(origin(material, apart.address if apart else "127.0.0.1"))
                field = Field(
                    model, models, "onnx", prefix={part: apart.prefix(part) for part in parts} if apart else None,
                    broker_address=apart.address if apart else "127.0.0.1",
                )  # fmt: skip
                stack.enter_context(field)
                account, began = field.account(), time.monotonic()
                field.listen({"one": f"{url}/{excerpt.path}"})
                field.wait_ended(["one"], 180)
                wall, used = time.monotonic() - began, account.since_start()
                found[spot].append(
                    {
                        "cpu_ms_per_audio_s": 1000 * sum(use.cpu_s for use in used.values()) / excerpt.seconds,
                        "audio_s_per_s": excerpt.seconds / wall,
                        "results": len(field.seen.results),
                        "wire_kb_per_audio_s": {
                            part: apart.bytes(part) / 1000 / excerpt.seconds for part in parts
                        } if apart else {},
                    }
                )  # fmt: skip
                say(f"{repeat + 1}/{repeats} {spot}: {figure(found[spot][-1]['audio_s_per_s'])} audio-s/s")
    rows = [
        [
            spot,
            spread(one["cpu_ms_per_audio_s"] for one in ones),
            spread(one["audio_s_per_s"] for one in ones),
            ones[-1]["results"],
            ", ".join(f"{part} {kb:.0f}" for part, kb in ones[-1]["wire_kb_per_audio_s"].items()) or "-",
        ]
        for spot, ones in found.items()
    ]
    report.values["hosts"] = found
    heads = ["services on", "CPU-ms per audio-s", "audio-s/s", "results", "kB per audio-s on each host's wire"]
    say(report.table(f"One host and several (network namespaces, veth), {model}", heads, rows))
    return report.save()
