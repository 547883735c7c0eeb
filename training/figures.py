"""The paper's figures from our own numbers: spectrograms (Fig. 2), confusion (Fig. 3), accuracy by epoch (Fig. 4).

Draws values into PNG files and trains nothing. `genre train reproduce` calls it; `genre train figures` draws again
from its JSON, or Fig. 2 from any GTZAN folder. Start at `spectrograms`, `confusion` and `curves`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from services import files
from services.contract.recipe import Recipe, load_recipe
from services.contract.windows import SAMPLE_RATE
from services.errors import GenreError, UsageError
from services.featurizer.features import Featurizer
from training.data.data_set import read_data_set
from training.data.gtzan import GENRES, Clip, Pcm, read
from training.given import UNREADABLE

PAPER = 97.02
"""Validation accuracy in per cent that the paper states."""
FORMATS = ("png", "pdf", "svg")
DPI = 140
BLUE, ORANGE, GREY = "#1f5a94", "#c8641b", "#777777"
ROWS_A_CLASS = 16
LONGEST = 30 * SAMPLE_RATE
"""As much of a clip as Fig. 2 shows."""
NAMES = {
    "spectrograms": "figure-2-spectrograms.png",
    "confusion": "figure-3-confusion.png",
    "curves": "figure-4-epochs.png",
}


def spectrograms(clips: Sequence[tuple[str, str, Pcm]], path: Path, dpi: int = DPI) -> None:
    """Draw mel spectrogram and chromagram of one clip a genre, made by the service's own featurizer.

    Args:
        clips: genre, the clip's name and its samples, in the order of drawing.
    """
    rows = -(-len(clips) // 2)
    figure = Figure(figsize=(13, 1.3 + 1.65 * rows), layout="constrained")
    panels = figure.subplots(rows, 4 if len(clips) > 1 else 2, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    mel, chroma = load_recipe("vgg16"), load_recipe("chroma")
    images: dict[int, Any] = {}
    for place, (genre, name, pcm) in enumerate(clips):
        row, column = place % rows, 2 * (place // rows)
        pcm = pcm[:LONGEST]
        seconds = pcm.size / SAMPLE_RATE
        left, right = panels[row, column : column + 2]
        images[column] = left.imshow(_whole(mel, pcm), origin="lower", aspect="auto", cmap="magma", vmin=-80, vmax=0,
                                     extent=(0, seconds, 0, mel.view.bands))  # fmt: skip
        # Each pitch class several rows high: what smooths thousands of frames to fit would else smear twelve rows too.
        classes = _whole(chroma, pcm).repeat(ROWS_A_CLASS, axis=0)
        images[column + 1] = right.imshow(classes, origin="lower", aspect="auto", cmap="viridis", vmin=0,
                                          vmax=1, extent=(0, seconds, 0, chroma.view.bands))  # fmt: skip
        left.set_title(f"{genre}  ({name})", fontsize=9, loc="left")
        right.set_title("its chromagram", fontsize=9, loc="left", color=GREY)
        ticks = _band_ticks(mel)
        left.set_yticks(list(ticks), list(ticks.values()), fontsize=7)
        right.set_yticks([0.5, 4.5, 7.5, 11.5], ["C", "E", "G", "B"], fontsize=7)
        left.set_ylabel("Hz (mel scale)", fontsize=7)
        right.set_ylabel("pitch class", fontsize=7)
        for panel in (left, right):
            panel.set_axis_on()
            panel.tick_params(axis="x", labelsize=7)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            if row == rows - 1 or place == len(clips) - 1:
                panel.set_xlabel("time, s", fontsize=8)
    figure.suptitle("Mel spectrogram and chromagram of one clip a genre", fontsize=12, x=0.01, ha="left")
    for column, image in images.items():
        bar = figure.colorbar(image, ax=panels[:, column], location="bottom", aspect=40, pad=0.02, fraction=0.03)
        bar.set_label("share of the strongest pitch class" if column % 2 else "dB, the clip's loudest is 0", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _save(figure, path, dpi)


def confusion(
    matrices: Sequence[Sequence[tuple[str, str, Sequence[Sequence[int]]]]],
    path: Path,
    genres: Sequence[str] = GENRES,
    dpi: int = DPI,
) -> None:
    """Draw confusion matrices, a row of the figure for each row given.

    Args:
        matrices: title, what is counted, and counts, true genre by row, answer by column, shape [genres, genres].
        genres: names of rows and columns.
    """
    across = max(map(len, matrices))
    side = max(3.2, 0.62 * len(genres))
    figure = Figure(figsize=(side * across + 1.2, side * len(matrices) + 0.4), layout="constrained")
    panels = figure.subplots(len(matrices), across, squeeze=False)
    image: Any = None
    for line, drawn in zip(panels, matrices, strict=True):
        for panel in line[len(drawn) :]:
            panel.set_axis_off()
        for panel, (title, what, counts_) in zip(line, drawn, strict=False):
            counts = np.asarray(counts_)
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            image = panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
            for row, column in np.argwhere(counts > 0):
                colour = "white" if share[row, column] > 0.55 else "black"
                panel.text(column, row, counts[row, column], ha="center", va="center", fontsize=8, color=colour)
            names = [f"{genre} ({count})" for genre, count in zip(genres, counts.sum(axis=1), strict=True)]
            panel.set_xticks(range(len(genres)), genres, rotation=45, ha="right", fontsize=8)
            panel.set_yticks(range(len(genres)), names, fontsize=8)
            panel.set_xlabel("answer", fontsize=9)
            panel.set_ylabel(f"truth ({what})", fontsize=9)
            panel.set_title(title, fontsize=9, loc="left")
    bar = figure.colorbar(image, ax=panels, shrink=0.7, aspect=30, pad=0.01)
    bar.set_label("share of the genre", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path, dpi)


def curves(
    runs: Sequence[tuple[str, Sequence[Mapping[str, float]]]],
    path: Path,
    genres: Sequence[str] = GENRES,
    dpi: int = DPI,
) -> None:
    """Draw accuracy and loss by epoch, what chance gives, and the paper's accuracy where its genres are judged.

    Args:
        runs: title and learning curve (epoch, train_accuracy, valid_accuracy, train_loss, valid_loss) of each.
    """
    accuracies = [(100 / len(genres), "chance")]
    if set(genres) <= set(GENRES):
        accuracies.append((PAPER, f"the paper, {PAPER} %"))
    figure = Figure(figsize=(5.2 * len(runs) + 0.3, 6.6), layout="constrained")
    panels = figure.subplots(2, len(runs), squeeze=False, sharey="row", sharex="col")
    chance = float(np.log(len(genres)))
    highest = max(chance, *(line[f"{part}_loss"] for _, lines in runs for line in lines for part in ("train", "valid")))
    for column, (title, history) in zip(panels.T, runs, strict=True):
        _course(column[0], history, "accuracy", accuracies, 100)
        _course(column[1], history, "loss", [(chance, "chance")], 1)
        column[0].set_ylim(0, 103)
        column[1].set_ylim(0, 1.07 * highest)
        column[0].set_title(title, fontsize=10, loc="left")
        column[1].set_xlabel("epoch", fontsize=9)
    panels[0, 0].set_ylabel("accuracy of windows, %", fontsize=9)
    panels[1, 0].set_ylabel("loss (cross-entropy), nats", fontsize=9)
    lines = [line for line in panels[0, 0].get_lines() if not line.get_label().startswith("_")]
    figure.legend(handles=lines, loc="outside upper right", ncols=2, fontsize=9, frameon=False)
    _save(figure, path, dpi)


def _course(
    panel: Any, history: Sequence[Mapping[str, float]], what: str, levels: Sequence[tuple[float, str]], scale: float
) -> None:
    """Draw one measure by epoch, with its last values and levels to compare with."""
    epochs = [line["epoch"] for line in history]
    last = [scale * history[-1][f"{part}_{what}"] for part in ("train", "valid")]
    for part, label, colour in (("train", "training (with dropout)", GREY), ("valid", "validation", BLUE)):
        values = [scale * line[f"{part}_{what}"] for line in history]
        panel.plot(epochs, values, color=colour, label=label, linewidth=2, marker="o", markersize=3)
        above = (part == "valid") == (last[1] >= last[0])
        told = f"{values[-1]:.{1 if scale > 1 else 2}f}"
        panel.annotate(told, (epochs[-1], values[-1]), xytext=(5, 4 if above else -5),
                       textcoords="offset points", va="center", fontsize=8, color=colour)  # fmt: skip
    for level, name in levels:
        panel.axhline(level, color=ORANGE, linewidth=1, linestyle="--", zorder=0)
        # A run begins near chance and ends near the paper: each is named where the curves are not.
        x, side = (0.99, "right") if name == "chance" else (0.01, "left")
        panel.annotate(name, (x, level), xycoords=("axes fraction", "data"), xytext=(0, 2), ha=side,
                       textcoords="offset points", fontsize=7, color=ORANGE)  # fmt: skip
    panel.set_xlim(0.5, max(epochs) + max(0.9, 0.09 * max(epochs)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.grid(axis="y", color="#dddddd", linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)


def one_clip_a_genre(clips: Sequence[Clip]) -> list[tuple[str, str, Pcm]]:
    """Return, for each genre there is, the first clip by name that can be read, longest files first."""
    chosen = []
    for genre in dict.fromkeys(genre for clip in clips for genre in clip.genres):
        own = sorted(
            (clip for clip in clips if clip.genre == genre), key=lambda clip: (-clip.path.stat().st_size, clip.name)
        )
        for clip in own:
            try:
                chosen.append((genre, clip.name, read(clip.path)))
                break
            except GenreError:
                continue
    if not chosen:
        raise GenreError("figure 2", "no clip can be read", "see the files' format")
    return chosen


def from_result(result: Mapping[str, Any], folder: Path, names: Mapping[str, str] = NAMES, dpi: int = DPI) -> None:
    """Draw Fig. 3 and Fig. 4 of a result of `genre train reproduce`; the suffix of a name is the format."""
    runs, genres = list(result["protocols"].values()), result.get("genres", GENRES)
    confusion([_matrices(run) for run in runs], folder / names["confusion"], genres, dpi)
    curves([(run["title"], run["history"]) for run in runs], folder / names["curves"], genres, dpi)


def _matrices(run: Mapping[str, Any]) -> list[tuple[str, str, Sequence[Sequence[int]]]]:
    """Return what Fig. 3 shows of a split: windows, and clips where the result counts them."""
    kinds = [(kind, run[key]) for kind, key in (("window", "confusion"), ("clip", "clip_confusion")) if key in run]
    drawn = []
    for kind, counts in kinds:
        low, high = (100 * edge for edge in run[f"{kind}_interval"])
        accuracy = (
            f"{100 * run[f'{kind}_accuracy']:.1f} % of {run[f'n_{kind}s']:,} {kind}s (95 %: {low:.1f}-{high:.1f})"
        )
        drawn.append((f"{run['title']}\n{accuracy}", f"{kind}s", counts))
    return drawn


@click.command()
@click.option("--gtzan", "--audio", type=click.Path(path_type=Path), help="Folder of the clips, for Fig. 2.")
@click.option("--index", type=click.Path(path_type=Path), help="CSV with file, genre, in place of folders.")
@click.option("--result", type=click.Path(path_type=Path), help="reproduce.json, for Fig. 3 and 4.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Where the files go.",
)
@click.option("--format", "form", type=click.Choice(FORMATS), default="png", show_default=True)
@click.option("--dpi", type=click.IntRange(30, 1_200), default=DPI, show_default=True, help="Of PNG, and of pictures.")
def figures(gtzan: Path | None, index: Path | None, result: Path | None, out: Path, form: str, dpi: int) -> None:
    """Draw the paper's figures.

    \b
    Example: genre train figures --gtzan ../gtzan --result reproduce/reproduce.json
    Example: genre train figures --result reproduce/reproduce.json --format pdf
    """
    names = {key: str(Path(name).with_suffix(f".{form}")) for key, name in NAMES.items()}
    if not gtzan and not result:
        raise UsageError("genre train figures", "nothing to draw from", "give --gtzan, --result or both")
    if gtzan:
        spectrograms(one_clip_a_genre(read_data_set(gtzan, index).clips), out / names["spectrograms"], dpi)
        click.echo(out / names["spectrograms"])
    if result:
        try:
            from_result(json.loads(result.read_text(encoding="utf-8")), out, names, dpi)
        except UNREADABLE as error:
            raise GenreError(
                str(result), f"is no result of 'genre train reproduce' ({error!r})", "give its reproduce.json"
            ) from error
        click.echo(out / names["confusion"])
        click.echo(out / names["curves"])


def _whole(recipe: Recipe, pcm: Pcm) -> Any:
    """Return a recipe's features of a whole clip, bands by frames."""
    view = recipe.view.model_copy(update={"frames": 1 + pcm.size // recipe.view.hop_length})
    stretched = recipe.model_copy(update={"window": pcm.size, "views": (view,)})
    return Featurizer(stretched).features(pcm[None])[0].T


def _band_ticks(recipe: Recipe) -> dict[float, str]:
    """Return where round frequencies stand on the (Slaney) mel scale, in bands."""

    def mel(hertz: float) -> float:
        return hertz / (200 / 3) if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))

    low, high = mel(recipe.view.fmin), mel(recipe.view.fmax)
    return {recipe.view.bands * (mel(hertz) - low) / (high - low): f"{hertz:,}" for hertz in (500, 2_000, 8_000)}


def _save(figure: Figure, path: Path, dpi: int) -> None:
    """Write a figure in the format of its suffix, whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as new:
            figure.savefig(new, format=path.suffix[1:], dpi=dpi)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error
