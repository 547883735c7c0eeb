"""The model's stages: its card, its files, its engine, and an answer of the right shape. Start at `part`."""

from __future__ import annotations

import numpy as np

from services.doctor.broker import connect
from services.doctor.stages import Part
from services.errors import GenreError
from services.settings import Inference

ANSWER_S = 8.0


def part(inference: Inference) -> Part:
    """Return the engine's chain of checks."""
    stages = [("card and files", lambda: card(inference))]
    if inference.backend == "triton":
        host, _, port = inference.triton_url.rpartition(":")
        stages.append(
            (
                "Triton",
                lambda: connect(host, int(port), "start Triton (deploy/triton), or set inference.backend to 'onnx'"),
            )
        )
    stages.append(("model shapes", lambda: answer(inference)))
    return Part("model", stages)


def card(inference: Inference) -> str:
    """Load the card, which is checked against the model's files.

    Raises:
        GenreError: see services/inference/card.py.
    """
    from services.inference.card import load_card

    found = load_card(inference.models_dir, inference.model)
    return f"{found.name} {found.version}, recipe {found.recipe.id}"


def answer(inference: Inference) -> str:
    """Ask for scores of one window of silence.

    Raises:
        GenreError: the engine does not answer, or not as the card says.
    """
    from services.inference.card import load_card

    found = load_card(inference.models_dir, inference.model)
    silence = np.zeros((1, *found.recipe.shape), np.float32)
    if inference.backend == "triton":
        from services.inference.triton_backend import TritonBackend

        remote = TritonBackend(found, inference.triton_url, inference.deadline_s)
        try:
            remote.wait_ready(ANSWER_S)
            scores = remote.scores(silence)
        finally:
            remote.close()
    else:
        from services.inference.onnx_backend import OnnxBackend

        scores = OnnxBackend(found).scores(silence)
    if scores.shape != (1, len(found.labels)):
        reason = f"answers {scores.shape}, not {(1, len(found.labels))}"
        raise GenreError(f"model {found.name}", reason, "install model and card together")
    return f"{inference.backend}: {'x'.join(map(str, silence.shape))} in, {len(found.labels)} scores out"
