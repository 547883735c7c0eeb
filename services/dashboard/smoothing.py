"""What the last 30 seconds of windows say together: the genre that a person would call "what plays now".

The same evidence rule as services/inference/verdict.py, over messages instead of arrays: it needs neither the model's
card nor the model. Start at `smoothed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from services.contract import Result

SPAN_S = 30.0


@dataclass(frozen=True)
class Judging:
    """What the inference service tells of its model in its status: how to pool windows and when to doubt."""

    window_correlation: float = 1.0
    unsure_below: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """A smoothed genre.

    Attributes:
        genre: None where all of it is silence; the best guess where kind is "unsure".
        confidence: 0..1; 0 where genre is None.
        scores: probability of each label; empty for silence.
    """

    genre: str | None
    confidence: float
    kind: Literal["music", "silence", "unsure"]
    scores: dict[str, float]


SILENCE = Verdict(None, 0.0, "silence", {})


def smoothed(results: Sequence[Result], judging: Judging) -> Verdict:
    """Return the verdict on some windows of one stream; silent ones and those of other models have no vote.

    The mean of n windows is raised to the power n / (1 + (n - 1) r), where r is the correlation of their errors.
    """
    heard = [each for each in results if each.kind != "silence" and each.scores]
    if not heard:
        return SILENCE
    latest = heard[-1]
    heard = [each for each in heard if each.scores.keys() == latest.scores.keys() and each.model == latest.model]
    weight = len(heard) / (1 + (len(heard) - 1) * judging.window_correlation)
    mean = {label: sum(each.scores[label] for each in heard) / len(heard) for label in latest.scores}
    best = max(mean.values()) or 1.0
    evidence = {label: (value / best) ** weight if value > 0 else 0.0 for label, value in mean.items()}
    total = sum(evidence.values()) or 1.0
    scores = {label: value / total for label, value in evidence.items()}
    genre = max(scores, key=lambda label: scores[label])
    return Verdict(genre, scores[genre], "unsure" if scores[genre] < judging.unsure_below else "music", scores)
