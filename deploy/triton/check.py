"""Does a Triton answer as the reference does? The same windows through Triton and through ONNX Runtime here.

    python deploy/triton/check.py --url 127.0.0.1:8001 --model musicnn

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


def windows(card: Card, count: int) -> NDArray[np.float32]:
    """Return feature windows of the project's own music, shape [count, frames, bands]."""
    from services.featurizer.features import Featurizer
    from services.origin import pieces

    featurizer = Featurizer(card.recipe)
    found: list[NDArray[np.float32]] = []
    for piece in (pieces.metal, pieces.classical, pieces.reggae, pieces.jazz):
        mono = piece().mean(axis=0)[::2]  # 44,100 to 22,050 Hz; aliasing does no harm here
        pcm = (mono * 32_000).astype(np.int16)
        starts = range(0, len(pcm) - 66_000, max(1, (len(pcm) - 66_000) // max(1, count // 4)))
        found += [featurizer.features(pcm[None, start : start + 66_000])[0] for start in list(starts)[: count // 4 + 1]]
    return np.stack(found[:count])


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
        theirs = np.concatenate([remote.scores(asked[i : i + 8]) for i in range(0, len(asked), 8)])
    finally:
        remote.close()
    ours = OnnxBackend(card, path=reference).scores(asked)
    return float(np.abs(ours - theirs).max()), float((ours.argmax(1) == theirs.argmax(1)).mean())


def main() -> int:
    """Read the options, compare, judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="127.0.0.1:8001")
    parser.add_argument("--model", default="musicnn")
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
