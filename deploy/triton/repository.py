"""The model repository for Triton on a device: the same models and cards, in the form that its backends take.

    python deploy/triton/repository.py --device tx2 --models models --out /var/lib/genre-edge/triton/models

tx2 and jetpack6, jetpack7: ONNX Runtime with TensorRT, engines cached; FP16 where the card allows it. jetpack5: there
Triton's ONNX Runtime has no TensorRT, so a plan is built on the device with trtexec. cpu: the Python backend. The work
is done in services/inference/triton_repository.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.errors import GenreError
from services.inference.card import load_card, model_names
from services.inference.triton_repository import DEVICES, Device, lay_out


def write(models: Path, out: Path, device: Device) -> list[Path]:
    """Write one folder a model; return what was written. A model without the form it takes is named and left out.

    Raises:
        GenreError: as `lay_out` does, or a card is wrong.
    """
    written = []
    for name in model_names(models):
        card = load_card(models, name)
        folder = lay_out(card, out, device)
        if folder is None:
            print(f"repository: {name} left out: it is {card.precision} and has no float form here", file=sys.stderr)
        else:
            written.append(folder)
    return written


def main() -> int:
    """Read the options and write the repository."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=list(DEVICES), required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        for folder in write(options.models, options.out, DEVICES[options.device]):
            print(folder)
    except GenreError as error:
        print(f"repository: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
