"""What `pipeline` is to reach, and whether it did: the goals as ratios to the script of today in the same run.

Values in, verdicts out; nothing is measured here. Start at `judged`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.accounting import Spread, spread

GOALS = {"vgg16_fp32": 2.5, "vgg16": 8.0, "genre-sounds": 8.0}
"""Audio-seconds per CPU-second of (c), as a multiple of (a)."""
BUS_GOALS = {"vgg16": 15.0, "genre-sounds": 15.0}
"""Most per cent of CPU that services over MQTT may cost more than one process."""
LATENCY_GOAL_MS = 150.0


@dataclass
class Case:
    """One way of doing it, and what its repeats cost."""

    name: str
    model: str
    run: Callable[[], dict[str, Any]]
    seconds: float
    repeats: list[dict[str, Any]] = field(default_factory=list)

    def spread(self, key: str) -> Spread:
        """Return median and range of one figure."""
        return spread(repeat[key] for repeat in self.repeats)


def ratios_of(cases: list[Case]) -> dict[str, Spread]:
    """Return each case's figure as a multiple of the script's of the same repeat."""
    base = [repeat["audio_s_per_cpu_s"] for repeat in cases[0].repeats]
    return {
        case.name: spread(r["audio_s_per_cpu_s"] / b for r, b in zip(case.repeats, base, strict=True)) for case in cases
    }


def judged(cases: list[Case], ratios: dict[str, Spread], live: dict[str, Any]) -> list[dict[str, Any]]:
    """Judge each goal that these cases can judge."""
    goals: list[dict[str, Any]] = []
    by_name = {case.name: case for case in cases}
    for case in cases:
        if not case.name.startswith("(c)"):
            continue
        if case.model in GOALS:
            found = ratios[case.name].median
            goals.append(
                _goal(f"{case.name}: x script", f">= {GOALS[case.model]:g}", f"{found:.2f}", found >= GOALS[case.model])
            )
        one = by_name[f"(b) one process, {case.model}"]
        more = spread(
            100 * (c["cpu_ms_per_audio_s"] / b["cpu_ms_per_audio_s"] - 1)
            for c, b in zip(case.repeats, one.repeats, strict=True)
        )
        if case.model in BUS_GOALS and case.name.endswith("onnx"):
            wanted = BUS_GOALS[case.model]
            goals.append(
                _goal(f"{case.name}: CPU over (b)", f"<= {wanted:g} %", f"{more.median:.0f} %", more.median <= wanted)
            )
        for name, process in case.repeats[-1]["processes"].items():
            if name.rsplit("-", 1)[0] in ("fetcher", "featurizer", "inference"):
                peak, start = process["peak_mib"], min(r["processes"][name]["start_s"] for r in case.repeats)
                if peak > 130 or start > 1.5:
                    goals.append(
                        _goal(f"{case.name}: {name}", "<= 130 MiB, < 1.5 s", f"{peak:.0f} MiB, {start:.2f} s", False)
                    )
    for name, values in live.items():
        if name.startswith("genre-sounds,"):
            goals.append(
                _goal(
                    f"latency p99, one live stream, {name}",
                    f"<= {LATENCY_GOAL_MS:g} ms",
                    f"{values['p99_ms']:.0f} ms",
                    values["p99_ms"] <= LATENCY_GOAL_MS,
                )
            )
    return goals


def _goal(goal: str, wanted: str, found: str, met: bool) -> dict[str, Any]:
    return {"goal": goal, "wanted": wanted, "found": found, "met": met}
