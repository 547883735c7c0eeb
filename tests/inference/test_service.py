"""From PCM to results through both services, message by message: kinds, sounds, levels, and what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from services.contract.chunks import Chunk, ChunkHeader
from services.contract.messages import ContractError, Message, Result, parse
from services.contract.tensors import MelTensor
from services.contract.topics import Topics
from services.contract.windows import HOP, WINDOW
from services.featurizer.service import FeaturizerService
from services.inference.card import Card
from services.inference.service import InferenceService
from services.settings.schema import Settings
from tests.inference.hearing_model import SOUNDS, hearing_model

TOPICS = Topics("genre")


def settings(models: Path, model: str) -> Settings:
    return Settings.model_validate({"inference": {"model": model, "backend": "onnx", "models_dir": models}})


def pcm_message(pcm: NDArray[np.int16]) -> Message:
    """Return a chunk of as many windows as there are."""
    header = ChunkHeader(
        stream="radio1", epoch=0, first_sample=0, windows=1 + (len(pcm) - WINDOW) // HOP, hop=HOP,
        received_at=time.time(), observed_at=time.time(),
    )  # fmt: skip
    return Chunk(header, pcm, TOPICS.acks("f")).to_message(TOPICS)


def noise(windows: int, loud: float = 3_000) -> NDArray[np.int16]:
    return np.random.default_rng(1).normal(0, loud, WINDOW + (windows - 1) * HOP).astype(np.int16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Card:
    """A model of two views that tells kinds and sounds."""
    return hearing_model(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def featurizer(model: Card) -> FeaturizerService:
    """A replica that is not connected: what it makes of a message needs no broker."""
    return FeaturizerService(settings(model.folder.parent, model.name), "hears")


@pytest.fixture(scope="module")
def inference(model: Card) -> InferenceService:
    """Likewise."""
    return InferenceService(settings(model.folder.parent, model.name), "hears")


def test_a_window_becomes_a_result_with_kinds_and_sounds(
    featurizer: FeaturizerService, inference: InferenceService
) -> None:
    (tensor,) = featurizer.process(pcm_message(noise(2))).out
    assert tensor.topic == "genre/mel/hearing/radio1"
    assert dict(tensor.properties)["views"] == "mel96:187x96,mel64:298x64"
    work = inference.process(tensor)
    results = [parse(Result, message.payload) for message in work.out]
    assert len(results) == 2 and len(work.last) == 1
    for result in results:
        assert result.kinds is not None and set(result.kinds) == {"music", "speech", "other"}
        assert sum(result.kinds.values()) == pytest.approx(1, abs=1e-3)
        assert result.sounds is not None and set(result.sounds) <= set(SOUNDS)
        assert (result.genre is None) == (result.kind not in ("music", "unsure"))
        best = max(result.kinds, key=lambda kind: result.kinds[kind])  # type: ignore[index]
        assert (best == "music") == (result.kind in ("music", "unsure"))


def test_a_level_is_told_as_it_was_heard_and_the_answer_does_not_hang_on_it(
    featurizer: FeaturizerService, inference: InferenceService
) -> None:
    loud, quiet = (
        parse(Result, inference.process(featurizer.process(pcm_message(pcm)).out[0]).out[0].payload)
        for pcm in (noise(1, 8_000), (noise(1, 8_000) / 32).round().astype(np.int16))
    )
    assert loud.level_dbfs - quiet.level_dbfs == pytest.approx(30.1, abs=0.1)
    assert loud.kinds is not None and quiet.kinds is not None
    for kind, share in loud.kinds.items():
        assert quiet.kinds[kind] == pytest.approx(share, abs=0.01)


def test_silence_is_silence_whatever_the_model_says(featurizer: FeaturizerService, inference: InferenceService) -> None:
    (message,) = inference.process(featurizer.process(pcm_message(np.zeros(WINDOW, np.int16))).out[0]).out
    result = parse(Result, message.payload)
    assert (result.kind, result.genre, result.confidence) == ("silence", None, 0.0)


def test_the_largest_chunk_of_a_recipe_with_several_views_fits_a_message(
    featurizer: FeaturizerService, inference: InferenceService
) -> None:
    """In float32 it would not: 13 windows of 36,960 numbers are 1.9 MB."""
    (tensor,) = featurizer.process(pcm_message(noise(13))).out
    assert len(tensor.payload) < 1_000_000 and dict(tensor.properties)["dtype"] == "float16"
    whole = [parse(Result, message.payload) for message in inference.process(tensor).out]
    first = parse(Result, inference.process(featurizer.process(pcm_message(noise(13)[:WINDOW])).out[0]).out[0].payload)
    assert len(whole) == 13
    for label, score in first.scores.items():
        assert whole[0].scores[label] == pytest.approx(score, abs=0.005)


def test_a_tensor_of_another_model_is_refused(model: Card, inference: InferenceService) -> None:
    views = {"mel96": np.zeros((1, 187, 96), np.float32), "mel64": np.zeros((1, 298, 64), np.float32)}
    chunk = Chunk.from_message(pcm_message(noise(1)))
    other = MelTensor.of(chunk, views, (-20.0,), "hearing", "0" * 16).to_message(TOPICS)
    with pytest.raises(ContractError, match="must serve the same model"):
        inference.process(other)
    swapped = {"mel64": views["mel64"], "mel96": views["mel96"]}
    with pytest.raises(ContractError, match="as its recipe says"):
        less = {"mel96": views["mel96"], "mel32": views["mel64"]}
        inference.process(MelTensor.of(chunk, less, (-20.0,), "hearing", model.recipe.digest).to_message(TOPICS))
    done = inference.process(MelTensor.of(chunk, swapped, (-20.0,), "hearing", model.recipe.digest).to_message(TOPICS))
    assert len(done.out) == 1  # the order of views is no part of the recipe: each has its name


def test_an_answer_that_is_not_finite_is_refused_by_name(tmp_path: Path, featurizer: FeaturizerService) -> None:
    broken = hearing_model(tmp_path, nan="kinds")
    service = InferenceService(settings(tmp_path, broken.name), "broken")
    with pytest.raises(ContractError, match="model hearing answered, but its kinds are not finite"):
        service.process(featurizer.process(pcm_message(noise(1))).out[0])


def test_a_result_of_a_model_without_a_sound_network_says_that_it_can_not_tell(tmp_path: Path) -> None:
    """vgg16, the paper's network, takes everything that is not silent for music, and says so with null."""
    root = Path(__file__).resolve().parents[2] / "models"
    config = settings(root, "vgg16")
    (tensor,) = FeaturizerService(config, "paper").process(pcm_message(noise(1))).out
    (message,) = InferenceService(config, "paper").process(tensor).out
    values = json.loads(message.payload)
    assert values["kinds"] is None and values["sounds"] is None and values["genre"] is not None
