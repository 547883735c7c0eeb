"""`genre train reproduce`: the paper's VGG16 on GTZAN, judged twice: the paper's leaky way and the honest one.

Puts together what the other modules of training/ do and tells the result: a table, figures and one JSON file.
Start at `reproduce`; training/vgg16/reproduction.py holds what is said of the result.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from services import files
from services.errors import GenreError
from services.number import Number
from training import figures
from training.data.data_set import Skipped, read_data_set
from training.data.gtzan import Clip
from training.data.splits import Lists, by_artist, find_lists, lists_of, load_lists, with_artists
from training.folder import as_given, clips_csv
from training.given import takes_folder
from training.resumable import Resumable
from training.terminal import quiet, show
from training.vgg16 import runs
from training.vgg16.reproduction import describe, judge, repeated, table

if TYPE_CHECKING:
    from training.vgg16.arrays import Windowed
    from training.vgg16.network import Weights


WINDOWS = "windows.npz"
"""Which windows a split trains on and validates on, for the export to calibrate and measure with."""
CLIPS = "clips.csv"
"""Which clips those are: clip, genre, artist, part."""


@click.command()
@click.option(
    "--gtzan",
    "--audio",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder of the clips: GTZAN or any subset, or your own, one folder a genre.",
)
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    help="CSV with the columns file, genre, perhaps artist and split, in place of folders.",
)
@click.option("--genres", help="These alone, in this order: a,b,c  [default: those of the data]")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Keras' VGG16 'notop' file; without it Keras downloads ImageNet's.",
)
@click.option(
    "--splits",
    type=click.Path(path_type=Path),
    help="Folder of the fault-filtered lists  [default: gtzan-splits in or beside the folder]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Results and work files.",
)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=20, show_default=True)
@click.option("--batch", type=click.IntRange(1, 4_096), default=32, show_default=True, help="Windows a step.")
@click.option(
    "--train-blocks",
    type=click.IntRange(0, 5),
    help="How many of VGG16's last blocks to train  [default: 5 with a GPU, else 1]",
)
@click.option("--mixed-precision", is_flag=True,
              help="Compute in 16 bits: float16 on a GPU, elsewhere bfloat16. Weights stay float32.")  # fmt: skip
@click.option("--learning-rate", type=Number(0, min_open=True), default=0.001, show_default=True)
@click.option(
    "--share",
    type=Number(0.05, 0.5),
    default=0.2,
    show_default=True,
    help="Random split: part of the windows to validate on.",
)
@click.option("--patience", type=click.IntRange(0, 10_000), default=0, show_default=True,
              help="Stop a run after so many epochs without a lower validation loss; 0 goes through all.")  # fmt: skip
@click.option("--folds", type=click.IntRange(0, 50), default=0, show_default=True,
              help="Also judge by so many folds by artist, each trained anew.")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, 50), default=1, show_default=True,
              help="How many seeds the folds, or without folds the artist split, are trained with.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of the table.")
def reproduce(
    folder: Path, index: Path | None, genres: str | None, weights: Path | None, splits: Path | None, out: Path,
    epochs: int, batch: int, train_blocks: int | None, mixed_precision: bool, learning_rate: float, share: float,
    patience: int, folds: int, seeds: int, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train the paper's VGG16 and tell both accuracies: with leaking segments, and with artists kept apart.

    Killed and started again with the same options, it goes on from the last epoch.

    \b
    Example: genre train reproduce --gtzan ../gtzan --weights vgg16_notop.h5
    Example: genre train reproduce --audio music --index music/index.csv --out own
    """
    data = read_data_set(folder, index, [genre.strip() for genre in genres.split(",")] if genres else ())
    lists = load_lists(splits) if splits else lists_of(data) or (None if index else find_lists(folder))
    settings = {
        "epochs": epochs,
        "batch": batch,
        "train_blocks": train_blocks,
        "mixed_precision": mixed_precision,
        "learning_rate": learning_rate,
        "share": share,
        "patience": patience,
        "folds": folds,
        "seeds": seeds,
        "seed": seed,
    }
    takes_folder("--out", out)
    try:
        result = run(with_artists(data.clips, lists), data.skipped, lists, weights, out, settings)
    except KeyboardInterrupt:
        click.echo("interrupted: the same command goes on from the last whole epoch", err=True)
        raise
    result["command"] = as_given(click.get_current_context())
    figures.spectrograms(figures.one_clip_a_genre(data.clips), out / figures.NAMES["spectrograms"])
    figures.from_result(result, out)
    _write(out / "reproduce.json", result)
    click.echo(json.dumps(result) if as_json else table(result, out))


def run(
    clips: list[Clip],
    skipped: list[Skipped],
    lists: Lists | None,
    weights: Path | None,
    out: Path,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Train and judge the network under both splits.

    Args:
        settings: epochs, batch, train_blocks (None: as many as the machine allows), mixed_precision, learning_rate,
            share, patience, folds, seeds, seed.

    Returns:
        Everything that is known of the result, ready for JSON.

    Raises:
        GenreError: as `find`, `by_artist`, `imagenet`, `fit` do.
    """
    begun, earlier = time.monotonic(), 0.0
    seed, share = settings["seed"], settings["share"]
    by_artist(clips, lists, runs.ARTIST_SHARE, seed)  # Too few clips: told before hours of work.
    with quiet():  # TensorFlow takes seconds to import; what is wrong with the folder has been told by now.
        from training.vgg16 import arrays, fit, machine, network
    imagenet = network.imagenet(weights)
    device = machine.device()
    frozen = len(network.BLOCKS) - machine.blocks(settings["train_blocks"], device)
    plan = fit.Plan(
        settings["epochs"],
        settings["batch"],
        settings["learning_rate"],
        seed=seed,
        patience=settings["patience"],
        precision=machine.precision(settings["mixed_precision"], device),
    )
    windowed = arrays.features_of(clips, out / "work", show)
    inputs: NDArray[Any] = windowed.features
    if frozen:
        trunk = network.trunk(frozen)
        network.write_weights(trunk, imagenet)
        inputs = arrays.activations_of(windowed, trunk, out / "work", show)

    def build() -> Any:
        model = network.tail(frozen, len(windowed.genres), plan.precision)
        network.write_weights(model, imagenet)
        return model

    def trained(split: runs.Run, plan: fit.Plan) -> tuple[Any, list[fit.Epoch]]:
        nonlocal earlier
        changing = {**asdict(plan), "epochs": 0, "frozen": frozen, "audio": windowed.key, "train": split.train.tolist()}
        del changing["patience"]  # as the number of epochs: a run may be gone on with under another
        if plan.precision == network.FLOAT32:
            del changing["precision"]  # runs from before there was a choice go on
        if not frozen:
            changing["takes"] = "features"  # and not those that learnt from dB that were not scaled
        changing["genres"] = windowed.genres
        key, folder = _key(changing, imagenet), out / "work" / split.name
        earlier += sum(line["seconds"] for line in Resumable(folder, key, ".keras").history)
        return fit.fit(build, inputs, windowed.labels, split.train, split.valid, plan, folder, key, show)

    more = list(runs.again(windowed, lists, plan, settings["folds"], settings["seeds"]))  # too few artists: told now
    protocols: dict[str, Any] = {}
    for split in runs.protocols(windowed, lists, share, seed):
        folder = out / "work" / split.name
        model, history = trained(split, plan)
        np.savez(folder / WINDOWS, train=split.train, valid=split.valid, labels=windowed.labels, clip=windowed.clip)
        _write_clips(folder / CLIPS, windowed, split)
        told: dict[str, Any] = {
            "title": split.title,
            "protocol": split.protocol,
            "n_train_windows": len(split.train),
            "songs_on_both_sides": float(np.isin(windowed.clip[split.valid], windowed.clip[split.train]).mean()),
            "seconds": sum(line.seconds for line in history),
            "best_epoch": len(history) - fit.epochs_since_best(history),
            "history": [asdict(line) for line in history],
        }
        for places, target in ((split.valid, told), (split.test, told.setdefault("test", {}))):
            if len(places):
                scores = fit.probabilities(model, inputs, places)
                target.update(judge(scores, windowed.labels[places], windowed.clip[places], windowed.genres))
        protocols[split.name] = told
        _save(
            network.network(len(windowed.genres)),
            {**imagenet, **network.read_weights(model)},
            out / f"vgg16-{split.name}.keras",
        )
    each = []
    for split, again in more:
        model, history = trained(split, again)
        places = split.valid
        scores = fit.probabilities(model, inputs, places)
        told = judge(scores, windowed.labels[places], windowed.clip[places], windowed.genres)
        about = {"name": split.name, "seed": again.seed, "epochs": len(history)}
        each.append({**about, "best_epoch": len(history) - fit.epochs_since_best(history), **told})
    return {
        "paper_accuracy": figures.PAPER / 100,
        **describe(windowed, skipped, lists),
        "settings": {
            **settings,
            "train_blocks": len(network.BLOCKS) - frozen,
            "precision": plan.precision,
            "decay": plan.decay,
            "momentum": plan.momentum,
            "trained_parameters": int(network.tail(frozen, len(windowed.genres)).count_params()),
            "parameters": int(network.network(len(windowed.genres)).count_params()),
        },
        "protocols": protocols,
        "repeats": repeated(each, settings["folds"], settings["seeds"]),
        "versions": machine.versions(),
        "device": device,
        "seconds": time.monotonic() - begun + earlier,  # with the epochs of earlier runs that this one went on from
    }


def _key(changing: Mapping[str, Any], weights: Weights) -> str:
    """Return sixteen hex digits that change with everything a run depends on."""
    digest = hashlib.sha256(json.dumps(changing, sort_keys=True).encode())
    for name in sorted(weights):
        for array in weights[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _save(model: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Write the whole network, whole or not at all."""
    from training.vgg16 import network

    network.write_weights(model, weights)
    try:
        with files.replacing(path) as new:
            model.save(new)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error


def _write_clips(path: Path, windowed: Windowed, split: runs.Run) -> None:
    """Write which clips a split learns from and is judged on; one on both sides stands once for each."""
    rows = [
        (clip.name, clip.genre, clip.artist, part)
        for part, places in (("train", split.train), ("valid", split.valid), ("test", split.test))
        for clip in (windowed.clips[number] for number in np.unique(windowed.clip[places]))
    ]
    try:
        files.replace(path, clips_csv(rows))
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error


def _write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    try:
        files.replace(path, json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error
