"""`scale replicas`: each service alone, from one replica to several, while the others stay fixed.

A service is measured alone by feeding it what the others would send and taking what it gives (`Feed`), so that
nothing but its replicas changes. Start at `replicas`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import bench_models
from benchmarks.accounting import figure, others_busy, spread
from benchmarks.material import Material, origin
from benchmarks.report import Report, lines
from benchmarks.services_run import Field
from services.contract.acks import Ack
from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import Message, Status
from services.contract.recipe import Recipe
from services.contract.tensors import MelTensor
from services.contract.windows import WINDOW
from services.errors import GenreError
from services.inference.card import load_card
from services.mqtt.subscriptions import Delivery
from services.text import utc

HOP = 33_000
WINDOWS = 4
"""In a message, as the fetcher makes them of 6-s segments."""
REPLY_TO = "bench"
IN_FLIGHT = 24
LEAST_S = 1.0
"""Of fetching, for a rate to mean anything."""


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
        noise = np.random.default_rng(0)
        self._views = {name: noise.random((WINDOWS, *shape), np.float32) for name, shape in recipe.shapes.items()}
        topics = field.topics
        returned = topics.mel(recipe.id, "+") if kind == "featurizer" else topics.acks(REPLY_TO)
        field.mqtt.subscribe(returned, self._take)
        if kind == "featurizer":
            self._stand_in_for_inference()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _stand_in_for_inference(self) -> None:
        """Say what an inference service says of itself: a featurizer works only while one for its recipe is there."""
        since = utc(time.time())
        status = Status(
            service="inference", instance=REPLY_TO, state="online", boot_id=REPLY_TO, version="0", since=since,
            details={"recipe": self._recipe.id, "recipe_digest": self._recipe.digest},
        )  # fmt: skip
        topic = self._field.topics.status("inference", REPLY_TO)
        self._field.mqtt.publish(Message(topic, status.to_json(), retain=True))

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._room.release()
        self._thread.join(10)

    def _take(self, delivery: Delivery) -> None:
        self._field.mqtt.ack(delivery)
        self.done += WINDOWS
        self._room.release()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._room.acquire()
            self._field.mqtt.publish(self._message())

    def _message(self) -> Message:
        first, self._sent = self._sent * WINDOWS * HOP, self._sent + 1
        header = ChunkHeader(
            stream="bench", epoch=0, first_sample=first, windows=WINDOWS, hop=HOP,
            received_at=time.time(), observed_at=time.time(),
        )  # fmt: skip
        topics = self._field.topics
        chunk = Chunk(header, self._pcm, topics.acks(REPLY_TO))
        if self._kind == "featurizer":
            return chunk.to_message(topics)
        levels = (-20.0,) * WINDOWS
        recipe = self._recipe
        return MelTensor.of(chunk, self._views, levels, recipe.id, recipe.digest).to_message(topics)


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
                measure = _fetchers if kind == "fetcher" else worker
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


def worker(material: Material, models: Path, model: str, kind: str, count: int, seconds: float) -> dict[str, float]:
    """Feed some replicas of one worker and return how they did."""
    names = {"fetcher": 0, "featurizer": 0, "inference": 0, kind: count}
    with Field(model, models, "onnx", names) as field:
        feed = Feed(field, kind, load_card(models, model).recipe)
        feed.start()
        try:
            field.wait(lambda: feed.done >= 8 * count * WINDOWS, 60, f"{kind} gives nothing")
            account = field.account()
            done, began = feed.done, time.monotonic()
            with others_busy(lambda: sum(use.cpu_s for use in account.since_start().values())) as others:
                time.sleep(seconds)
            wall, done = time.monotonic() - began, feed.done - done
            used = account.since_start()
        finally:
            feed.stop()
        cpu = sum(use.cpu_s for name, use in used.items() if name.startswith(kind))
    if done == 0:
        raise GenreError(
            "benchmark",
            f"{count} x {kind} did nothing in {wall:.0f} s",
            field.look,
        )
    return {
        "windows_per_s": done / wall,
        "cpu_ms_per_window": 1000 * cpu / done,
        "broker_cpu_ms_per_window": 1000 * used["broker"].cpu_s / done,
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
            chunk = Chunk.from_message(delivery.message)
            field.mqtt.publish(Ack(chunk.header.chunk, "done").to_message(chunk.reply_to))
            field.mqtt.ack(delivery)
            done[0] += chunk.header.windows

        field.mqtt.subscribe(field.topics.pcm("+"), take)
        for number in range(1, count + 1):
            plan_file = field.folder / f"fetcher-{number}.json"
            values = field.config.model_dump(mode="json", exclude_none=True)
            values["streams"] = [{"name": f"s{number}-{i}", "url": f"{url}/{excerpt.path}"} for i in range(4)]
            values["paths"] = {"state_dir": str(field.folder / f"state-{number}")}
            _write_config(field, plan_file, values)
            field.add("fetcher", str(number), plan_file)
        field.wait(lambda: done[0] > 20, 30, "the fetchers give nothing")
        account, before, began = field.account(), done[0], time.monotonic()
        with others_busy(lambda: sum(use.cpu_s for use in account.since_start().values())) as others:
            while time.monotonic() - began < min(seconds, 6.0) and not _any_over(field):  # they are fast
                time.sleep(0.05)
        wall, windows = time.monotonic() - began, done[0] - before
        if windows == 0 or wall < min(seconds, LEAST_S):
            raise GenreError(
                "benchmark", f"a stream was over after {wall:.1f} s: too short for a rate", "give it longer music"
            )
        used = account.since_start()
        cpu = sum(use.cpu_s for name, use in used.items() if name.startswith("fetcher"))
    return {
        "windows_per_s": windows / wall,
        "cpu_ms_per_window": 1000 * cpu / windows,
        "broker_cpu_ms_per_window": 1000 * used["broker"].cpu_s / windows,
        "others_busy": others[0],
    }


def _any_over(field: Field) -> bool:
    return any(ledger.ended for ledger in field.seen.ledgers.copy().values())


def _write_config(field: Field, path: Path, values: dict[str, Any]) -> None:
    """Write one fetcher's own configuration."""
    path.touch(mode=0o600)
    path.write_text(json.dumps(values), encoding="utf-8")
