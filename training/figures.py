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

from services.errors import GenreError, UsageError
from services.featurizer.features import Featurizer
from services.featurizer.recipe import PCM_RATE, Recipe, load_recipe
from training.gtzan import GENRES, Clip, Pcm, find, read

DPI = 140
BLUE, ORANGE, GREY = "#1f5a94", "#c8641b", "#777777"
LONGEST = 30 * PCM_RATE
"""As much of a clip as Fig. 2 shows."""
NAMES = {
    "spectrograms": "figure-2-spectrograms.png",
    "confusion": "figure-3-confusion.png",
    "curves": "figure-4-epochs.png",
}


def spectrograms(clips: Sequence[tuple[str, str, Pcm]], path: Path) -> None:
    """Draw mel spectrogram and chromagram of one clip a genre, made by the service's own featurizer.

    Args:
        clips: genre, the clip's name and its samples, in the order of drawing.
    """
    rows = -(-len(clips) // 2)
    figure = Figure(figsize=(13, 0.9 + 1.65 * rows), layout="constrained")
    panels = figure.subplots(rows, 4, squeeze=False)
    for panel in panels.flat[2 * len(clips) :]:
        panel.set_axis_off()
    mel, chroma = load_recipe("vgg16"), load_recipe("chroma")
    images: list[Any] = []
    for place, (genre, name, pcm) in enumerate(clips):
        row, column = place % rows, 2 * (place // rows)
        pcm = pcm[:LONGEST]
        seconds = pcm.size / PCM_RATE
        images = [
            panels[row, column].imshow(_whole(mel, pcm), origin="lower", aspect="auto", cmap="magma", vmin=-80, vmax=0,
                                       extent=(0, seconds, 0, mel.bands)),
            panels[row, column + 1].imshow(_whole(chroma, pcm), origin="lower", aspect="auto", cmap="viridis", vmin=0,
                                           vmax=1, extent=(0, seconds, 0, chroma.bands)),
        ]  # fmt: skip
        panels[row, column].set_title(f"{genre}  ({name})", fontsize=9, loc="left")
        ticks = _band_ticks(mel)
        panels[row, column].set_yticks(list(ticks), list(ticks.values()), fontsize=7)
        panels[row, column + 1].set_yticks([0.5, 4.5, 7.5, 11.5], ["C", "E", "G", "B"], fontsize=7)
        for panel in panels[row, column : column + 2]:
            panel.tick_params(axis="x", labelsize=7)
            if row == rows - 1 or place == len(clips) - 1:
                panel.set_xlabel("s", fontsize=8)
    for column in (0, 2):
        panels[0, column + 1].set_title("chromagram", fontsize=9, loc="left", color=GREY)
        panels[rows // 2, column].set_ylabel("Hz (mel scale)", fontsize=8)
    figure.suptitle("Mel spectrogram and chromagram of one clip a genre", fontsize=12, x=0.01, ha="left")
    for image, column, label in zip(
        images, (0, 2), ("dB below the loudest", "share of the frame's strongest pitch class"), strict=True
    ):
        bar = figure.colorbar(
            image, ax=panels[:, column : column + 2], location="bottom", aspect=60, pad=0.012, fraction=0.02
        )
        bar.set_label(label, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def confusion(matrices: Sequence[tuple[str, Sequence[Sequence[int]]]], path: Path) -> None:
    """Draw confusion matrices side by side.

    Args:
        matrices: title and counts of windows, true genre by row, answer by column, shape [10, 10].
    """
    figure = Figure(figsize=(6.3 * len(matrices) + 0.4, 6.2), layout="constrained")
    panels = figure.subplots(1, len(matrices), squeeze=False)[0]
    image: Any = None
    for panel, (title, counts_) in zip(panels, matrices, strict=True):
        counts = np.asarray(counts_)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = panel.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts > 0):
            dark = share[row, column] > 0.55
            panel.text(
                column,
                row,
                counts[row, column],
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
        names = [f"{genre} ({count})" for genre, count in zip(GENRES, counts.sum(axis=1), strict=True)]
        panel.set_xticks(range(len(GENRES)), GENRES, rotation=45, ha="right", fontsize=8)
        panel.set_yticks(range(len(GENRES)), names, fontsize=8)
        panel.set_xlabel("answer", fontsize=9)
        panel.set_ylabel("truth (windows)", fontsize=9)
        panel.set_title(title, fontsize=10, loc="left")
    bar = figure.colorbar(image, ax=list(panels), shrink=0.7, aspect=30, pad=0.01)
    bar.set_label("share of the genre's windows", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    _save(figure, path)


def curves(runs: Sequence[tuple[str, Sequence[Mapping[str, float]]]], path: Path) -> None:
    """Draw training and validation accuracy by epoch.

    Args:
        runs: title and learning curve (epoch, train_accuracy, valid_accuracy) of each.
    """
    figure = Figure(figsize=(5.2 * len(runs) + 0.3, 4.1), layout="constrained")
    panels = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for panel, (title, history) in zip(panels, runs, strict=True):
        epochs = [line["epoch"] for line in history]
        lines = ("train_accuracy", "training (with dropout)", GREY), ("valid_accuracy", "validation", BLUE)
        for key, label, colour in lines:
            values = [100 * line[key] for line in history]
            panel.plot(epochs, values, color=colour, label=label, linewidth=2, marker="o", markersize=3)
            panel.annotate(f"{values[-1]:.1f}", (epochs[-1], values[-1]), xytext=(5, 0), textcoords="offset points",
                           va="center", fontsize=8, color=colour)  # fmt: skip
        panel.set_ylim(0, 103)
        panel.set_xlim(0.5, max(epochs) + max(1.0, 0.09 * max(epochs)))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(axis="y", color="#dddddd", linewidth=0.8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("epoch", fontsize=9)
        panel.set_title(title, fontsize=10, loc="left")
    panels[0].set_ylabel("accuracy of windows, %", fontsize=9)
    panels[0].legend(frameon=False, fontsize=9, loc="lower right")
    _save(figure, path)


def one_clip_a_genre(clips: Sequence[Clip]) -> list[tuple[str, str, Pcm]]:
    """Return, for each genre there is, the first clip by name that can be read, longest files first."""
    chosen = []
    for genre in GENRES:
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


def from_result(result: Mapping[str, Any], folder: Path) -> None:
    """Draw Fig. 3 and Fig. 4 of a result of `genre train reproduce`."""
    runs = result["protocols"].values()
    confusion(
        [(f"{run['title']}: {100 * run['window_accuracy']:.1f} %", run["confusion"]) for run in runs],
        folder / NAMES["confusion"],
    )
    curves([(run["title"], run["history"]) for run in runs], folder / NAMES["curves"])


@click.command()
@click.option("--gtzan", type=click.Path(path_type=Path), help="GTZAN folder, for Fig. 2.")
@click.option("--result", type=click.Path(path_type=Path), help="reproduce.json, for Fig. 3 and 4.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("reproduce"),
    show_default=True,
    help="Where the PNG files go.",
)
def figures(gtzan: Path | None, result: Path | None, out: Path) -> None:
    """Draw the paper's figures.

    \b
    Example: genre train figures --gtzan ../gtzan --result reproduce/reproduce.json
    """
    if not gtzan and not result:
        raise UsageError("genre train figures", "nothing to draw from", "give --gtzan, --result or both")
    if gtzan:
        spectrograms(one_clip_a_genre(find(gtzan)[0]), out / NAMES["spectrograms"])
        click.echo(out / NAMES["spectrograms"])
    if result:
        try:
            from_result(json.loads(result.read_text(encoding="utf-8")), out)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise GenreError(
                str(result), f"is no result of 'genre train reproduce' ({error!r})", "give its reproduce.json"
            ) from error
        click.echo(out / NAMES["confusion"])
        click.echo(out / NAMES["curves"])


def _whole(recipe: Recipe, pcm: Pcm) -> Any:
    """Return a recipe's features of a whole clip, bands by frames."""
    stretched = recipe.model_copy(update={"window": pcm.size, "frames": 1 + pcm.size // recipe.hop_length})
    return Featurizer(stretched).features(pcm[None])[0].T


def _band_ticks(recipe: Recipe) -> dict[float, str]:
    """Return where round frequencies stand on the (Slaney) mel scale, in bands."""

    def mel(hertz: float) -> float:
        return hertz / (200 / 3) if hertz < 1000 else 15 + 27 * float(np.log(hertz / 1000) / np.log(6.4))

    low, high = mel(recipe.fmin), mel(recipe.fmax)
    return {recipe.bands * (mel(hertz) - low) / (high - low): f"{hertz:,}" for hertz in (500, 2_000, 8_000)}


def _save(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(part, format="png", dpi=DPI)
        part.replace(path)
    except OSError as error:
        raise GenreError(str(path), f"can't be written ({error})", "give --out a folder with room") from error
