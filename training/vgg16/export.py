"""`genre train export-vgg16`: the reproduced network becomes models/vgg16/, with what its form costs in its card.

Reads the folder that `genre train reproduce` wrote and trains nothing. The artist-separated network is the one that
is exported, because its accuracy means something. Start at `export_vgg16`; onnx_graph.py makes the graphs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from services.contract.recipe import ONE_VIEW, load_recipe
from services.errors import GenreError
from services.inference.card import MODEL_FILE, Card
from training import cost, folder, metrics
from training.data.gtzan import GENRES
from training.given import UNREADABLE, takes_folder
from training.terminal import quiet
from training.vgg16 import winograd
from training.vgg16.reproduce import CLIPS, WINDOWS

LEAST_AGREEMENT = 0.99
"""Share of real windows on which the deployed form must give the genre that plain float32 gives."""
PRECISIONS = {"int8": ("int8", "int8 static QDQ"), "fp32": (winograd.PRECISION, winograd.PRECISION)}
"""What can be asked for -> its name and how the card puts it. A GPU takes plain float32 whatever a CPU takes."""
INGREDIENTS = [
    {
        "name": "VGG16 convolutions trained on ImageNet",
        "licence": "CC BY 4.0",
        "source": "Visual Geometry Group, Oxford",
    },
    {
        "name": "GTZAN clips of the fault-filtered training and validation lists",
        "licence": "research material; no audio is contained in the model",
        "source": "GTZAN (Tzanetakis and Cook), lists of Kereliuk et al. 2015",
    },
]
WHOLE = "The paper's 97 % is of randomly chosen segments, where pieces of a song are on both sides."
COSTLY = "It costs many times what the default model does: take it to compare, not to serve."
LARGEST_LIST = 2**22
"""Bytes of the list of clips that a folder takes."""


@dataclass(frozen=True)
class Reproduced:
    """What the export needs of a run: its result, the network's weights, its windows and who they belong to."""

    result: dict[str, Any]
    weights: Any
    features: NDArray[np.float32]
    train: NDArray[np.intp]
    valid: NDArray[np.intp]
    labels: NDArray[np.intp]
    clip: NDArray[np.intp]
    clips: bytes

    @property
    def genres(self) -> tuple[str, ...]:
        """What its labels stand for; runs of older versions knew GTZAN's alone."""
        return tuple(self.result.get("genres", GENRES))


@click.command("export-vgg16")
@click.option(
    "--reproduced",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Folder that 'genre train reproduce' wrote.",
)
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--name", default="vgg16", show_default=True, help="Name and folder of the model.")
@click.option("--version", "model_version", default="1", show_default=True, help="Version written into the card.")
@click.option(
    "--calibration",
    type=click.IntRange(16, 10_000),
    default=256,
    show_default=True,
    help="Training windows that set the int8 ranges.",
)
@click.option(
    "--precision",
    type=click.Choice(list(PRECISIONS)),
    default="int8",
    show_default=True,
    help="Of the form that a CPU runs; fp32 is Winograd's, a fifth cheaper there than plain float32.",
)
def export_vgg16(
    reproduced: Path, models: Path, name: str, model_version: str, calibration: int, precision: str
) -> None:
    """Write models/NAME/ (int8) from a reproduced VGG16, and its float32 form beside it as fp32.onnx.

    \b
    Example: genre train export-vgg16 --reproduced reproduce --name my-vgg16
    Example: genre train export-vgg16 --reproduced own --name own
    """  # fmt: skip
    found = read(reproduced)
    folder.refuse_name(name, model_version)
    takes_folder("--models", models)
    card = write(found, models, name, model_version, calibration, precision, reproduced)
    told = next(line for line in card.costs if line.agreement is not None)
    assert told.agreement is not None
    click.echo(
        f"wrote {card.folder} ({sum(file.bytes for file in card.files) / 1e6:.1f} MB): the same genre as "
        f"float32 in {told.agreement:.2%} of {told.agreement_windows} windows, {told.cpu_ms:.1f} CPU-ms a window"
    )


def read(reproduced: Path) -> Reproduced:
    """Read back a run of `genre train reproduce`.

    Raises:
        GenreError: for a folder that holds none, or whose parts do not fit each other.
    """
    with quiet():
        import keras

        from training.vgg16.network import INPUT, read_weights
    try:
        result = json.loads((reproduced / "reproduce.json").read_text(encoding="utf-8"))
        shape = tuple(result["data"]["shape"])
        features = np.memmap(reproduced / result["data"]["features"], np.float32, "r", shape=shape)
        with np.load(reproduced / "work" / "artist" / WINDOWS) as windows:
            parts = {name: windows[name] for name in ("train", "valid", "labels", "clip")}
        weights = read_weights(keras.models.load_model(reproduced / "vgg16-artist.keras", compile=False))
        listed = reproduced / "work" / "artist" / CLIPS
        clips = listed.read_bytes()[:LARGEST_LIST] if listed.is_file() else b""
        if weights["genres"][1].shape != (len(result.get("genres", GENRES)),):
            raise ValueError(f"the network tells {len(weights['genres'][1])} genres")
        if shape[1:] != INPUT or len(parts["labels"]) != len(features):
            raise ValueError(f"features of shape {shape} for {len(parts['labels'])} windows")
        for told in ("protocols", "settings", "whole_set"):
            result[told]
    except UNREADABLE as error:
        remedy = "run 'genre train reproduce --out FOLDER' again"
        raise GenreError(
            str(reproduced), f"holds no whole run ({' '.join(str(error).split())[:200]})", remedy
        ) from error
    return Reproduced(result, weights, features[..., 0], **parts, clips=clips)


def write(
    found: Reproduced, models: Path, name: str, version: str, calibration: int, precision: str = "int8",
    reproduced: Path = Path("reproduce"),
) -> Card:  # fmt: skip
    """Make both forms, compare them on the validation windows, and write the model's folder.

    Args:
        precision: of `PRECISIONS`, the form that is deployed; the other is plain float32.
        reproduced: the run's folder, as the card's command names it.

    Raises:
        GenreError: where the two disagree on more than one window in a hundred; nothing is written then.
    """
    from training.vgg16 import onnx_graph

    valid = np.sort(found.valid)
    heard, labels = np.asarray(found.features[valid]), found.labels[valid]
    names, clip_of = np.unique(found.clip[valid], return_inverse=True)
    clip_labels = np.zeros(len(names), np.intp)
    clip_labels[clip_of] = labels

    plain = onnx_graph.scores(onnx_graph.float_model(found.weights), heard, 2)
    temperature = metrics.fit_temperature(np.log(np.maximum(plain, 1e-9)), labels)
    whole = onnx_graph.float_model(found.weights, temperature)
    (form, form_in_card), made = PRECISIONS[precision], {}
    if precision == "int8":
        chosen = np.random.default_rng(0).permutation(found.train)[:calibration]
        deployed = onnx_graph.int8_model(whole, np.asarray(found.features[np.sort(chosen)]))
        windows = f"MinMax of {len(chosen)} training windows"
        made["int8"] = f"{windows}, 7-bit weights by channel, first and last layers float"
    else:
        deployed = onnx_graph.float_model(found.weights, temperature, winograd=True)
    calibrated = metrics.softmax(np.log(np.maximum(plain, 1e-9)) / temperature)
    answers = onnx_graph.scores(deployed, heard, 2)
    agreement = onnx_graph.agreement(calibrated, answers)
    differ = round((1 - agreement) * len(valid))
    if agreement < LEAST_AGREEMENT:
        reason = f"{form} gives another genre than float32 in {differ} of {len(valid)} windows"
        raise GenreError(name, reason, "give more --calibration windows, or --precision fp32")

    correlation = metrics.fit_correlation(answers, clip_of, clip_labels)
    artist, recipe = found.result["protocols"]["artist"], load_recipe("vgg16")
    protocol = f"{artist['protocol']}; the temperature is fitted on the same {len(valid)} windows, so ece flatters"
    options = ("--reproduced", reproduced, "--name", name, "--precision", precision, "--calibration", str(calibration))
    command = folder.command("export-vgg16", *options)
    evaluations = [
        {
            "protocol": protocol,
            "command": command,
            "precision": kind,
            **{
                key: value
                for key, value in metrics.measure(part, clip_of, clip_labels, found.genres, correlation)
                .as_dict()
                .items()
                if key != "confusion"
            },
        }
        for kind, part in ((form, answers), ("fp32", calibrated))
    ]
    contents = deployed.SerializeToString(), whole.SerializeToString()
    forms = zip((form, "fp32"), contents, strict=True)
    costs = [cost.of(kind, content, {ONE_VIEW: recipe.shape}, name) for kind, content in forms]
    costs[0] |= {"agreement": round(agreement, 4), "agreement_windows": len(valid)}
    settings = found.result["settings"]
    values = {
        "name": name,
        "version": version,
        "summary": f"The paper's network (VGG16), trained to tell {folder.listed(found.genres)}.",
        "labels": found.genres,
        "recipe": recipe,
        "recipe_digest": recipe.digest,
        "max_batch": 8,
        "precision": form_in_card,
        "gpu_precision": "fp32",
        "parameters": settings["parameters"],
        "opset": onnx_graph.OPSET,
        "temperature": temperature,
        "unsure_below": 0.3,
        "window_correlation": correlation,
        "training": {
            "data": f"{artist['n_train_windows']} windows of 66,000 samples; {artist['protocol']}",
            "method": f"the last {settings['train_blocks']} of 5 blocks and the head, {len(artist['history'])} epochs, "
            + ", ".join(f"{each} {settings[each]}" for each in ("learning_rate", "decay", "momentum", "batch", "seed"))
            + (f", precision {settings['precision']}" if settings.get("mixed_precision") else ""),
            **made,
            "time": f"{artist['seconds']:.0f} s",
            "command": found.result.get("command", "genre train reproduce"),
        },
        "evaluations": evaluations,
        "costs": costs,
        "ingredients": ingredients(found),
        "faults": faults(found, evaluations[0]["per_genre"]),
    }
    files = {MODEL_FILE: (contents[0], "answers in the service", form)}
    if found.clips:
        files[folder.CLIPS_FILE] = found.clips, "the clips it learnt from (train) and was judged on", "text"
    # The float form is no file of the card: 60 MB that the services do not need, made again by this command.
    return folder.write(models, values, files, contents[1])


def ingredients(found: Reproduced) -> list[dict[str, str]]:
    """Return what the network was made from, as far as its run knows."""
    if set(found.genres) <= set(GENRES) and found.result["data"].get("lists_found"):
        return INGREDIENTS
    clips = {
        "name": f"{found.result['data'].get('clips', 'the')} clips of {folder.listed(found.genres)}",
        "licence": "that of the clips, which this project does not know; no audio is contained in the model",
        "source": f"the run's own folder; {folder.CLIPS_FILE} names them",
    }
    return [INGREDIENTS[0], clips]


def faults(found: Reproduced, per_genre: Mapping[str, float]) -> list[str]:
    """Return what it is bad at, from the run's own numbers.

    Args:
        per_genre: accuracy of validation clips, by the form that is deployed.
    """
    data = found.result["data"]
    made = [f"{folder.listed(found.genres)} are all it knows: other music, and speech, is given the nearest of them."]
    weakest = sorted(per_genre.items(), key=lambda item: item[1])[:3]
    made.append(
        f"Weakest genres, of validation clips: {', '.join(f'{genre} {share:.0%}' for genre, share in weakest)}."
    )
    if data.get("one_window_clips"):
        short = f"{data['one_window_clips']} of {data['clips']} clips gave one window only"
        made.append(f"{short}, {data['padded_clips']} of them repeated to fill it.")
    if found.result["whole_set"]:
        made.append(WHOLE)
    return [*made, COSTLY]
