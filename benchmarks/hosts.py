"""`scale hosts`: the same stream with all services on one host, and with each on a host of its own.

The hosts are network namespaces joined by veth (`rigs/network.py`), the broker on this one. Start at `hosts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import bench_models
from benchmarks.accounting import figure, spread
from benchmarks.material import Material, origin
from benchmarks.report import Report
from benchmarks.rigs.network import Network
from benchmarks.services_run import Field


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
                apart = stack.enter_context(Network(parts)) if spot == "a host each" else None
                url = stack.enter_context(origin(material, apart.gateway if apart else "127.0.0.1"))
                field = Field(
                    model, models, "onnx", prefix={part: apart.prefix(part) for part in parts} if apart else None,
                    broker_address=apart.gateway if apart else "127.0.0.1",
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
