"""Writes the networks with their heads as models/<name>/: the whole answer in one ONNX file, and its card.

Start at `write`; `genre train export` calls it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from services.contract.recipe import load_recipe
from services.inference.card import MODEL_FILE, Card
from training import cost, folder
from training.hearing.heads import Heads
from training.hearing.listen import KINDS
from training.hearing.networks import FAST_RECIPE, FINE_RECIPE, LOGITS, RECIPE, TAGS, Networks, joined, trunk
from training.onnx_graph import OPSET, Graph

_STUDENT = "Music, speech or other, then {genres}; one small network that was taught by musicnn and mn04."
SUMMARIES = {
    RECIPE: "Music, speech or other, then {genres}; MSD-musicnn's tags and a student's sounds together.",
    FAST_RECIPE: _STUDENT,
    FINE_RECIPE: _STUDENT,
}
_TAUGHT = "which began as mn04 and was taught what musicnn and mn04 answer, on unlabelled music, speech and noises"
NETWORKS = {
    RECIPE: "MSD_musicnn, without the filters that never move, not trained further; beside it, for the sounds, mn04's "
    f"layers over 300 frames of 115 bands, {_TAUGHT}",
    FAST_RECIPE: f"mn04's layers over 200 frames of 115 bands, {_TAUGHT}",
    FINE_RECIPE: f"mn04's layers over 300 frames of 115 bands, {_TAUGHT}",
}
LEVEL = "each window is set to {:g} dBFS first: loudness is not genre"
UNSURE_BELOW = 0.4
INGREDIENTS = [
    {"name": "MSD_musicnn network and weights", "licence": "ISC", "source": "PyPI musicnn 0.1.0 (J. Pons, UPF)"},
    {
        "name": "mn04 of EfficientAT, trained on AudioSet: the teacher and the beginning of the network for sounds",
        "licence": "MIT",
        "source": "EfficientAT release v0.0.1, mn04_as_mAP_432.pt (F. Schmid, JKU Linz)",
    },
]
OF_GTZAN = [
    {
        "name": "GTZAN taggrams of the 443 fault-filtered training clips (labels by Tzanetakis and Cook)",
        "licence": "research material; no audio is contained in the model",
        "source": "GTZAN, fault-filtered list of Kereliuk et al. 2015",
    },
    {
        "name": "audio of GTZAN, Emotify and FMA (labels of genres)",
        "licence": "research material; no audio is contained in the model",
        "source": "GTZAN's fault-filtered training and validation lists, Emotify's rock, FMA small",
    },
]
OF_KINDS = [
    {
        "name": "speech, sounds and music of packages, and synthesis (labels of kinds)",
        "licence": "open, each package's own; no audio is contained in the model",
        "source": "Debian packages; docs/models.md lists them",
    },
]


def heads_model(heads: Heads) -> onnx.ModelProto:
    """Return the heads alone: `tags` [n, 50] and `logits` [n, 521] in; scores, kinds and sounds out."""
    graph = Graph()
    heads.genres.append(graph, TAGS, LOGITS, "scores")
    heads.kinds.append(graph, LOGITS, "kinds")
    graph.add("Sigmoid", LOGITS, name="sounds")
    outputs = {"scores": [len(heads.labels)], "kinds": [len(KINDS)], "sounds": [len(heads.sounds)]}
    model: onnx.ModelProto = graph.model({TAGS: [50], LOGITS: [len(heads.sounds)]}, {**outputs})
    return model


def write(models: Path, name: str, version: str, heads: Heads, networks: Path) -> Card:
    """Write the model's folder.

    Args:
        networks: from `genre train networks` or `genre train distil`, or a model made from one.

    Raises:
        GenreError: for files that do not fit each other, or a folder that can't be written.
    """
    recipe = load_recipe(Networks(networks).recipe)
    model = joined(trunk(networks), heads_model(heads), ((TAGS, TAGS), (LOGITS, LOGITS)))
    content = _serialised(model)
    clips = folder.clips_csv((*clip, "train") for clip in heads.clips).encode()
    contents = {
        MODEL_FILE: (content, "answers in the service", "fp32"),
        folder.TAG_HEAD_FILE: (_serialised(heads.genres.tag_model()), "the genre head of musicnn's tags alone", "fp32"),
        folder.CLIPS_FILE: (clips, "the clips that taught the heads (train)", "text"),
    }
    values = {
        "name": name,
        "version": version,
        "summary": SUMMARIES[recipe.id].format(genres=folder.listed(heads.labels, "or")),
        "labels": heads.labels,
        "kinds": KINDS,
        "sounds": heads.sounds,
        "recipe": recipe,
        "recipe_digest": recipe.digest,
        "precision": "fp32",
        "parameters": _parameters(model),
        "opset": OPSET,
        "temperature": heads.genres.temperature,
        "unsure_below": UNSURE_BELOW,
        "window_correlation": heads.genres.correlation,
        "training": {"networks": NETWORKS[recipe.id], **told(heads), "level": LEVEL.format(recipe.level_dbfs)},
        "evaluations": [_evaluation(heads)],
        "costs": [cost.of("fp32", content, recipe.shapes, name)],
        "ingredients": ingredients(heads),
        "faults": faults(heads),
    }
    return folder.write(models, values, contents)


def told(heads: Heads) -> dict[str, str]:
    """Return what the card says of how it was made."""
    genres, kinds = heads.about, heads.about_kinds
    taggrams = f" and {genres['tag_clips']} as taggrams ({genres['tag_windows']})" if genres["tag_clips"] else ""
    of_kinds = f"logistic regression on {len(heads.kinds.ranges)} groups of the sound network's classes, "
    kept = kinds.get("kept_from")
    return {
        "genres": f"two shrunk linear discriminants, on log tags of {genres['clips']} clips of audio by "
        f"{genres['artists']} artists ({genres['windows']} windows){taggrams}, and on "
        f"the sound network's logits of the audio; their sum, the second {heads.genres.share:g}-fold, and one "
        f"temperature; {genres['cpu_s']} CPU-s",
        "kinds": of_kinds + (f"kept from {kept}" if kept else f"{kinds['windows']} windows"),
    }


def faults(heads: Heads) -> list[str]:
    """Return what it is bad at, from what cross-validation found."""
    genres, kinds = heads.about, heads.about_kinds
    weakest = sorted(genres["per_genre"].items(), key=lambda item: item[1])[:3]
    mixed = kinds["right"].get("mixed", {})
    of_gtzan = " (of GTZAN, recorded before 2002)" if genres["gtzan"] else ""
    made = [
        f"{folder.listed(heads.labels)}{of_gtzan} are all it knows: other music is given the nearest of them.",
        "Weakest genres, of clips in nested cross-validation by artist: "
        + ", ".join(f"{genre} {share:.0%}" for genre, share in weakest)
        + ".",
    ]
    if kept := kinds.get("kept_from"):
        made.append(f"How well it tells music from speech was not measured again: that head is the one of {kept}.")
    if mixed:
        made.append(
            f"Talk over music, by what dominates by 6 or 12 dB: {mixed['speech']:.0%} of windows right where the talk "
            f"is louder, {mixed['music']:.0%} where the music is."
        )
    if plain := kinds["right"].get("plain"):
        told = ", ".join(f"{kind} {share:.1%}" for kind, share in plain.items())
        made.append(f"Left out by package or speaker, windows that get their kind: {told}.")
    return made


def ingredients(heads: Heads) -> list[dict[str, str]]:
    """Return what the model was made from, as far as its run knows."""
    if heads.about["gtzan"]:
        return [*INGREDIENTS, *OF_GTZAN, *OF_KINDS]
    own = {
        "name": f"{len(heads.clips)} clips (labels: {folder.listed(heads.labels)})",
        "licence": "that of the clips, which this project does not know; no audio is contained in the model",
        "source": f"the run's own folder; {folder.CLIPS_FILE} names them",
    }
    return [*INGREDIENTS, own, *(OF_KINDS if "kept_from" in heads.about_kinds else [])]


def _evaluation(heads: Heads) -> dict[str, Any]:
    """Return what nested cross-validation found, as the card has it."""
    keys = (
        "protocol", "command", "n_clips", "n_windows", "clip_accuracy", "clip_interval", "window_accuracy",
        "window_interval", "ece", "clip_ece", "per_genre",
    )  # fmt: skip
    return {key: heads.about[key] for key in keys}


def _parameters(model: onnx.ModelProto) -> int:
    """Return how many float numbers a model holds."""
    arrays = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    return sum(array.size for array in arrays if array.dtype == np.float32)


def _serialised(model: Any) -> bytes:
    content: bytes = model.SerializeToString()
    return content
