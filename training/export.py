"""`genre train export`: a fitted head on its network becomes models/<name>/, or a model there gets another target.

What is written where stands in training/folder.py. Start at `export`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from services.errors import UsageError
from services.featurizer.recipe import load_recipe
from services.inference.card import MODEL_FILE, load_card
from training import cost, fitted, folder, musicnn, triton_config
from training.gtzan import GENRES
from training.heads import Head
from training.onnx_graph import OPSET, Graph
from training.stationary import append_doubt

INGREDIENTS = [
    {"name": "MSD_musicnn network and weights", "licence": "ISC", "source": "PyPI musicnn 0.1.0 (J. Pons, UPF)"},
    {
        "name": "GTZAN taggrams of the 443 fault-filtered training clips (labels by Tzanetakis and Cook)",
        "licence": "research material; no audio is contained in the model",
        "source": "GTZAN, fault-filtered list of Kereliuk et al. 2015",
    },
]
FAULTS = [
    "The ten genres of GTZAN (recorded before 2002) are all it knows: other music is given the nearest of them.",
    "Rock is its weakest genre: it is confused with metal, country and blues.",
    "Half precision overflows in this network on loud audio: float32 only.",
]
UNSURE_BELOW = 0.4
"""Below it a window is right in 36 % of cases (10 % of held-out music); 83 % of 180 windows of speech fall below it."""


@click.command()
@click.option("--name", default="musicnn", show_default=True, help="Name and folder of the model.")
@click.option("--head", type=click.Path(path_type=Path), help="Fitted head (from 'genre train fit').")
@click.option("--wheel", type=click.Path(path_type=Path), help="PyPI's musicnn 0.1.0 wheel, which holds the network.")
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--version", "model_version", default="1", show_default=True, help="Version written into the card.")
@click.option("--target", type=click.Choice(triton_config.TARGETS), default="cpu", show_default=True)
def export(name: str, head: Path | None, wheel: Path | None, models: Path, model_version: str, target: str) -> None:
    """Write models/NAME/ from a fitted head, or, without --head, rewrite it for another target.

    \b
    Example: genre train export --head results/head.npz --wheel musicnn-0.1.0-py3-none-any.whl
    Example: genre train export --name musicnn --target jetson-onnxruntime
    """
    if (head is None) != (wheel is None):
        raise UsageError(
            "train export", "--head and --wheel belong together", "give both, or neither to change the target"
        )
    if head is None or wheel is None:
        card = folder.rewrite(load_card(models, name), target)
    else:
        made, about = fitted.load(head)
        weights = musicnn.checkpoint(wheel)
        card = _write(models, name, model_version, made, about, weights, target)
    click.echo(f"wrote {card.folder} ({sum(file.bytes for file in card.files) / 1e6:.1f} MB) for {target}")
    if target == "jetson-tensorrt":
        click.echo(f"on the device, in that folder: {triton_config.trtexec(card)}")


def _write(
    models: Path, name: str, version: str, head: Head, about: dict[str, Any], weights: musicnn.Weights, target: str
) -> Any:
    """Build the ONNX files and the card, and write the folder."""
    graph = Graph()
    trunk = musicnn.Trunk(graph, weights)
    head.append(graph, trunk.tags, "certain")
    append_doubt(graph, "features", "certain", musicnn.FRAMES, musicnn.BANDS, len(GENRES), "scores")
    model = graph.model({"features": [musicnn.FRAMES, musicnn.BANDS]}, {"scores": [len(GENRES)]})
    content = model.SerializeToString()
    recipe = load_recipe("musicnn")
    with tempfile.NamedTemporaryFile(suffix=".onnx") as scratch:
        scratch.write(content)
        scratch.flush()
        cpu_ms, mib = cost.measure(Path(scratch.name), recipe.shape)
    evaluation = {key: about[key] for key in (
        "protocol", "command", "n_clips", "n_windows", "clip_accuracy", "clip_interval", "window_accuracy",
        "window_interval", "ece", "clip_ece", "per_genre",
    )}  # fmt: skip
    values = {
        "name": name,
        "version": version,
        "summary": "MSD-musicnn with a ten-genre head of Gaussians on its 50 tags: 30 to 40 CPU-ms a window.",
        "labels": GENRES,
        "recipe": recipe,
        "recipe_digest": recipe.digest,
        "precision": "fp32",
        "parameters": musicnn.parameters(weights) + head.classifier.parameters,
        "opset": OPSET,
        "temperature": head.temperature,
        "unsure_below": UNSURE_BELOW,
        "window_correlation": head.correlation,
        "training": {
            "data": "443 clips of GTZAN's fault-filtered training list, as taggrams of 12,415 windows",
            "head": f"{about['head']} on log tags, fitted in {about['cpu_s']} CPU-s",
            "network": "MSD_musicnn as published, not trained further",
            "doubt": "sound whose spectrum does not move (noise, hum, tones) gets even scores: training/stationary.py",
        },
        "evaluations": [evaluation],
        "costs": [
            {
                "form": "ONNX Runtime fp32",
                "machine": cost.machine(),
                "cpu_ms": cpu_ms,
                "memory_mib": mib,
                "command": "genre train export",
            }
        ],
        "ingredients": INGREDIENTS,
        "faults": FAULTS,
    }
    contents = {
        MODEL_FILE: (content, "answers in the service", "fp32"),
        folder.TAG_HEAD_FILE: (head.model().SerializeToString(), "the same head from tag activations", "fp32"),
    }
    return folder.write(models, values, contents, target)
