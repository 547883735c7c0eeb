"""What windows say together: is it music, talk, silence or something else, and if music, of which genre.

The one rule: `now`, the page, the terminal and `genre classify` all say what this says. It reads messages or values of
the same names and needs neither the model's card nor the model. Start at `smoothed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.contract.messages import Kind, Result

SPAN_S = 30.0
SILENT_AFTER_S = 10.0
"""After so long without a sound, what was heard before it says nothing about now; a pause in a piece is shorter."""


class Heard(Protocol):
    """What is known of one window; a `Result` has it all."""

    @property
    def kind(self) -> Kind:
        """What kind of sound it is."""
        ...

    @property
    def kinds(self) -> Mapping[str, float] | None:
        """Probability of music, speech and other; None where the model can't tell."""
        ...

    @property
    def scores(self) -> Mapping[str, float]:
        """Probability of each genre, given that it is music."""
        ...


@dataclass(frozen=True)
class Judging:
    """What the inference service tells of its model in its status: how to pool windows and when to doubt.

    Attributes:
        window_correlation: how alike the errors of neighbouring windows are, 0..1.
        unsure_below: a genre less probable than this is "unsure".
    """

    window_correlation: float = 1.0
    unsure_below: float = 0.0

    @classmethod
    def of(cls, details: Mapping[str, str]) -> Judging:
        """Read the details of an inference service's status; what can't be read stays as is by default."""
        values = {}
        for name in ("window_correlation", "unsure_below"):
            try:
                value = float(details[name])
            except (KeyError, ValueError):
                continue
            if 0.0 <= value <= 1.0:
                values[name] = value
        return cls(**values)


@dataclass(frozen=True)
class Verdict:
    """What is heard.

    Attributes:
        genre: None unless kind is "music" or "unsure"; the best guess where it is "unsure".
        confidence: probability of the genre, or of the kind where there is no genre; 0 for silence.
        scores: probability of each genre, given that it is music; empty for silence.
        kinds: probability of music, speech and other; None where the model can't tell, or for silence.
        windows: how many windows that were not silent it rests on.
    """

    genre: str | None
    confidence: float
    kind: Kind
    scores: Mapping[str, float] = field(default_factory=dict)
    kinds: Mapping[str, float] | None = None
    windows: int = 1


SILENCE = Verdict(None, 0.0, "silence", windows=0)


def lately(results: Sequence[Result]) -> list[Result]:
    """Return those of a stream's windows that say something about now: the last 30 s, none from before a break.

    A break is another epoch, another model, or a silence of `SILENT_AFTER_S`.

    Args:
        results: by time, the latest last.
    """
    if not results:
        return []
    last = results[-1]
    recent = [
        each
        for each in results
        if each.epoch == last.epoch and each.start_s > last.start_s - SPAN_S and each.model == last.model
    ]
    silent_since: float | None = None
    begin = 0
    for number, each in enumerate(recent):
        if each.kind != "silence":
            silent_since = None
            continue
        silent_since = each.start_s if silent_since is None else silent_since
        if each.end_s - silent_since >= SILENT_AFTER_S:
            begin = number
    return recent[begin:]


def smoothed(windows: Sequence[Heard], judging: Judging) -> Verdict:
    """Return the verdict on some windows; silent ones have no vote, and neither have those with other genres.

    The kind is the one with the highest mean probability: of talk over music, what dominates. The genre is pooled over
    the windows that are music. With one window it is the verdict on that.
    """
    heard = [each for each in windows if each.kind != "silence" and each.scores]
    if not heard:
        return SILENCE
    labels = list(heard[-1].scores)
    heard = [each for each in heard if each.scores.keys() == heard[-1].scores.keys()]
    kinds = _mean_kinds(heard)
    kind = max(kinds, key=lambda name: kinds[name]) if kinds else "music"
    music = [each for each in heard if each.kind in ("music", "unsure")] or heard
    pooled_scores = pooled(
        np.array([[each.scores[label] for label in labels] for each in music]), judging.window_correlation
    )
    scores = dict(zip(labels, map(float, pooled_scores), strict=True))
    if kinds is not None and kind in ("speech", "other"):
        return Verdict(None, kinds[kind], "speech" if kind == "speech" else "other", scores, kinds, len(heard))
    genre = max(scores, key=lambda label: scores[label])
    confidence = min(1.0, scores[genre])
    sure = confidence >= judging.unsure_below
    return Verdict(genre, confidence, "music" if sure else "unsure", scores, kinds, len(heard))


def _mean_kinds(heard: Sequence[Heard]) -> dict[str, float] | None:
    """Return the mean probability of each kind; None where no window has any."""
    known = [each.kinds for each in heard if each.kinds]
    if not known:
        return None
    return {name: sum(each.get(name, 0.0) for each in known) / len(known) for name in known[-1]}


def pooled(scores: NDArray[np.floating], correlation: float) -> NDArray[np.float32]:
    """Return the probabilities of several windows together: [windows, labels] -> [labels].

    Windows are averaged, not multiplied: one window that is wrong and sure of it then can't outvote the rest (over
    GTZAN's training clips the average is right on 1 % more of them). An average is too timid, for many witnesses say
    more than one: it is raised to the power n / (1 + (n - 1) r), Kish's effective number of n witnesses whose errors
    have correlation r.
    """
    count = len(scores)
    effective = count / (1 + (count - 1) * correlation)
    mean = np.asarray(scores, np.float64).mean(axis=0)
    evidence = (mean / (mean.max() or 1.0)) ** effective
    return np.asarray(evidence / (evidence.sum() or 1.0), np.float32)
