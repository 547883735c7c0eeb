"""`genre train reproduce`: the paper's VGG16 on GTZAN, judged twice: the paper's leaky way and the honest one.

Puts together what the other modules of training/ do and tells the result: a table, figures and one JSON file.
Start at `reproduce`; training/reproduction.py holds what is said of the result.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from services.errors import GenreError
from training import figures
from training.gtzan import Clip, Skipped, find
from training.reproduction import PAPER, describe, judge, table
from training.splits import Lists, by_artist, find_lists, load_lists, random_windows, with_artists
from training.terminal import quiet, show

if TYPE_CHECKING:
    from training.vgg16 import Weights
    from training.vgg16_arrays import Windowed

ARTIST_SHARE = 0.25
"""Part of the clips to validate on, where the folder lacks clips of the published validation list."""


WINDOWS = "windows.npz"
"""Which windows a split trains on and validates on, for the export to calibrate and measure with."""


@dataclass(frozen=True)
class Run:
    """One split, ready to train: places of windows, and how to call it."""

    name: str
    title: str
    protocol: str
    train: NDArray[np.intp]
    valid: NDArray[np.intp]
    test: NDArray[np.intp]


@click.command()
@click.option(
    "--gtzan",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="GTZAN folder: au, wav or flac; any subset.",
)
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
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=0.001, show_default=True)
@click.option(
    "--share",
    type=click.FloatRange(0.05, 0.5),
    default=0.2,
    show_default=True,
    help="Random split: part of the windows to validate on.",
)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON instead of the table.")
def reproduce(
    folder: Path, weights: Path | None, splits: Path | None, out: Path, epochs: int, batch: int,
    train_blocks: int | None, learning_rate: float, share: float, seed: int, as_json: bool,
) -> None:  # fmt: skip
    """Train the paper's VGG16 and tell both accuracies: with leaking segments, and with artists kept apart.

    Killed and started again with the same options, it goes on from the last epoch.

    \b
    Example: genre train reproduce --gtzan ../gtzan --weights vgg16_notop.h5
    """
    clips, skipped = find(folder)
    lists = load_lists(splits) if splits else find_lists(folder)
    settings = {
        "epochs": epochs,
        "batch": batch,
        "train_blocks": train_blocks,
        "learning_rate": learning_rate,
        "share": share,
        "seed": seed,
    }
    result = run(with_artists(clips, lists), skipped, lists, weights, out, settings)
    result["command"] = " ".join(["genre", *sys.argv[1:]])
    figures.spectrograms(figures.one_clip_a_genre(clips), out / figures.NAMES["spectrograms"])
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
        settings: epochs, batch, train_blocks (None: as many as the machine allows), learning_rate, share, seed.

    Returns:
        Everything that is known of the result, ready for JSON.

    Raises:
        GenreError: as `find`, `by_artist`, `imagenet`, `fit` do.
    """
    begun = time.monotonic()
    seed, share = settings["seed"], settings["share"]
    by_artist(clips, lists, ARTIST_SHARE, seed)  # Too few clips: told before hours of work.
    with quiet():  # TensorFlow takes seconds to import; what is wrong with the folder has been told by now.
        from training import vgg16, vgg16_arrays, vgg16_fit
    imagenet = vgg16.imagenet(weights)
    device = _device()
    frozen = len(vgg16.BLOCKS) - _blocks(settings["train_blocks"], device)
    plan = vgg16_fit.Plan(settings["epochs"], settings["batch"], settings["learning_rate"], seed=seed)
    windowed = vgg16_arrays.features_of(clips, out / "work", show)
    inputs: NDArray[Any] = windowed.features
    if frozen:
        trunk = vgg16.trunk(frozen)
        vgg16.write_weights(trunk, imagenet)
        inputs = vgg16_arrays.activations_of(windowed, trunk, out / "work", show)

    def build() -> Any:
        model = vgg16.tail(frozen)
        vgg16.write_weights(model, imagenet)
        return model

    protocols: dict[str, Any] = {}
    for split in _splits(windowed, lists, share, seed):
        changing = {**asdict(plan), "epochs": 0, "frozen": frozen, "audio": windowed.key, "train": split.train.tolist()}
        key = _key(changing, imagenet)
        folder = out / "work" / split.name
        model, history = vgg16_fit.fit(
            build, inputs, windowed.labels, split.train, split.valid, plan, folder, key, show
        )
        np.savez(folder / WINDOWS, train=split.train, valid=split.valid, labels=windowed.labels, clip=windowed.clip)
        told: dict[str, Any] = {
            "title": split.title,
            "protocol": split.protocol,
            "n_train_windows": len(split.train),
            "songs_on_both_sides": float(np.isin(windowed.clip[split.valid], windowed.clip[split.train]).mean()),
            "seconds": sum(line.seconds for line in history),
            "history": [asdict(line) for line in history],
        }
        for places, target in ((split.valid, told), (split.test, told.setdefault("test", {}))):
            if len(places):
                scores = vgg16_fit.probabilities(model, inputs, places)
                target.update(judge(scores, windowed.labels[places], windowed.clip[places]))
        protocols[split.name] = told
        _save(vgg16.network(), {**imagenet, **vgg16.read_weights(model)}, out / f"vgg16-{split.name}.keras")
    return {
        "paper_accuracy": PAPER / 100,
        **describe(windowed, skipped, lists),
        "settings": {
            **settings,
            "train_blocks": len(vgg16.BLOCKS) - frozen,
            "decay": plan.decay,
            "momentum": plan.momentum,
            "trained_parameters": int(vgg16.tail(frozen).count_params()),
            "parameters": int(vgg16.network().count_params()),
        },
        "protocols": protocols,
        "versions": _versions(),
        "device": device,
        "seconds": time.monotonic() - begun,
    }


def _blocks(asked: int | None, device: str) -> int:
    """Return how many of the last blocks to train; where nobody said, what the machine can do in an hour or so."""
    if asked is not None:
        return asked
    return 5 if any(word in device.lower() for word in ("gpu", "cuda", "mps")) else 1


def _splits(windowed: Windowed, lists: Lists | None, share: float, seed: int) -> list[Run]:
    """Return the paper's split and the honest one."""
    train, valid = random_windows(windowed.labels.tolist(), share, seed)
    told = f"{1 - share:.0%} of the windows to train, {share:.0%} to validate, at random within each genre"
    none = np.empty(0, np.intp)
    artist = by_artist(windowed.clips, lists, ARTIST_SHARE, seed)
    parts = [np.flatnonzero(np.isin(windowed.clip, part)) for part in (artist.train, artist.valid, artist.test)]
    return [
        Run("random", "random segments (leaky)", f"{told}; pieces of a song are on both sides", train, valid, none),
        Run("artist", "artists separated", artist.protocol, *parts),
    ]


def _key(changing: Mapping[str, Any], weights: Weights) -> str:
    """Return sixteen hex digits that change with everything a run depends on."""
    digest = hashlib.sha256(json.dumps(changing, sort_keys=True).encode())
    for name in sorted(weights):
        for array in weights[name]:
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _device() -> str:
    """Return where Keras' backend puts its arrays; the one question that all three backends answer alike."""
    import keras

    return str(getattr(keras.ops.zeros(1), "device", "unknown"))


def _versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    import keras
    import scipy

    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def _save(network: Any, weights: Mapping[str, Any], path: Path) -> None:
    """Write the whole network, whole or not at all."""
    from training import vgg16

    vgg16.write_weights(network, weights)
    part = path.with_name("part.keras")
    try:
        network.save(part)
        part.replace(path)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error


def _write(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON, whole or not at all."""
    part = path.with_suffix(".part")
    try:
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error
