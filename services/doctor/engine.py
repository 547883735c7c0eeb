"""The model's stages: its card, its files, its engine, and an answer of the right shape. Start at `part`."""

from __future__ import annotations

import numpy as np

from services.doctor.broker import connect
from services.doctor.stages import Part
from services.errors import GenreError
from services.settings.schema import Inference

ANSWER_S = 8.0


def part(inference: Inference) -> Part:
    """Return the engine's chain of checks."""
    stages = [("card and files", lambda: card(inference))]
    if inference.backend == "triton":
        host, _, port = inference.triton_url.rpartition(":")
        start = "start Triton (deploy/triton), or set inference.backend to 'onnx'"
        stages.append(("Triton", lambda: connect(host.strip("[]"), int(port), start)))
    stages.append(("model shapes", lambda: answer(inference)))
    return Part("model", stages)


def card(inference: Inference) -> str:
    """Load the card, which is checked against the model's files.

    Raises:
        GenreError: see services/inference/card.py.
    """
    from services.inference.card import load_card

    found = load_card(inference.models_path, inference.model)
    return f"{found.name} {found.version}, recipe {found.recipe.id}"


def answer(inference: Inference) -> str:
    """Ask for an answer to one window of silence.

    Raises:
        GenreError: the engine does not answer, or not as the card says.
    """
    from services.inference.card import load_card

    found = load_card(inference.models_path, inference.model)
    shapes = found.recipe.shapes
    silence = {name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
    if inference.backend == "triton":
        from services.inference.triton_backend import TritonBackend

        remote = TritonBackend(found, inference.triton_url, inference.deadline_s)
        try:
            remote.wait_ready(ANSWER_S)
            answered = remote.answer(silence)
        finally:
            remote.close()
    else:
        from services.inference.onnx_backend import OnnxBackend

        answered = OnnxBackend(found).answer(silence)
    if problem := answered.problem():
        raise GenreError(f"model {found.name}", f"answers silence, but {problem}", "install model and card together")
    kinds = f", tells {', '.join(found.kinds)}" if found.kinds else ", can't tell speech from music"
    said = " and ".join(f"1x{frames}x{bands}" for frames, bands in shapes.values())
    return f"{inference.backend}: {said} in, {len(found.labels)} scores out{kinds}"
