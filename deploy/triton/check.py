"""Does a Triton answer as the reference does? The same windows through Triton and through ONNX Runtime here.

    python deploy/triton/check.py --url 127.0.0.1:8001 --model genre-sounds

Prints the largest difference of any score and how often the first genre agrees. FP16 on a GPU must stay within 0.02 and
agree on 99 % of windows; FP32 within 0.0001. A GPU serves the float form, a CPU the deployed one (--form). Start at
`compare`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from services.inference.card import Card, load_card
from services.inference.onnx_backend import OnnxBackend
from services.inference.triton_backend import TritonBackend

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}
AGREEMENT = 0.99


def windows(card: Card, count: int) -> dict[str, NDArray[np.float32]]:
    """Return the views of so many windows, shape [count, frames, bands] each: chords over a beat, each another one."""
    from services.featurizer.features import Featurizer

    draw, time_s = np.random.default_rng(1), np.arange(66_000) / 22_050
    found = np.empty((count, 66_000), np.int16)
    for window in found:
        notes = 110 * 2 ** (draw.integers(0, 36, 4) / 12)
        chord = sum(np.sin(2 * np.pi * note * k * time_s) / k for note in notes for k in (1, 2, 3))
        beat = draw.normal(0, draw.uniform(0.1, 2.0), time_s.size) * np.exp(-8 * (time_s * draw.uniform(1, 3) % 1))
        window[:] = np.clip(chord + beat, -8, 8) * (draw.uniform(0.05, 0.9) * 4_000)
    return Featurizer(card.recipe).views(found)


def compare(card: Card, url: str, deadline_s: float, count: int, reference: Path | None = None) -> tuple[float, float]:
    """Return the largest absolute difference of a score, and the share of windows with the same first genre.

    Args:
        reference: the form that Triton serves; None takes the one that services deploy on a CPU.

    Raises:
        GenreError: Triton does not answer for this model.
    """
    asked = windows(card, count)
    remote = TritonBackend(card, url, deadline_s)
    try:
        remote.wait_ready(60.0)
        parts = [{name: view[i : i + 8] for name, view in asked.items()} for i in range(0, count, 8)]
        theirs = np.concatenate([remote.answer(part).scores for part in parts])
    finally:
        remote.close()
    ours = OnnxBackend(card, path=reference).answer(asked).scores
    return float(np.abs(ours - theirs).max()), float((ours.argmax(1) == theirs.argmax(1)).mean())


def main() -> int:
    """Read the options, compare, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8001")
    parser.add_argument("--model", default="genre-sounds")
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--precision", choices=list(TOLERANCE), default="fp16")
    parser.add_argument(
        "--form",
        choices=["float", "deployed"],
        default="float",
        help="what it serves: float on a GPU, else as deployed",
    )
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--deadline-s", type=float, default=10.0)
    options = parser.parse_args()
    try:
        card = load_card(options.models, options.model)
        reference = card.float_path() if options.form == "float" else card.path()
        if reference is None:
            raise GenreError(card.name, f"is {card.precision} and its float form is not here", "see docs/models.md")
        difference, agreement = compare(card, options.url, options.deadline_s, options.windows, reference)
    except GenreError as error:
        print(f"check: {error}", file=sys.stderr)
        return error.exit_code
    good = difference <= TOLERANCE[options.precision] and agreement >= AGREEMENT
    print(f"largest difference {difference:.2e}, same genre {100 * agreement:.1f} %: {'good' if good else 'NOT GOOD'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
