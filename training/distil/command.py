"""`genre train distil`: a small network that learns what musicnn and mn04 answer, from unlabelled sound.

It becomes a file with both answers from one view: `genre train listen`, `fit` and `export` go on from it, and
`genre train networks` takes its sounds for the default. Start at `distil`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from services import files
from services.contract.recipe import Recipe, load_recipe
from services.errors import MOST_TEXT, GenreError
from services.featurizer.features import Featurizer
from services.inference.card import load_card
from services.number import Number
from services.text import clean
from training import folder
from training.distil.teach import Plan, Taught
from training.distil.teachers import Teachers
from training.distil.windows import Draw, Library, audio_files
from training.efficientat import network as efficientat
from training.given import UNREADABLE, archive_of, takes_file, takes_folder
from training.hearing.kinds_head import ranges_of
from training.hearing.networks import FAST_RECIPE, FINE_RECIPE, LOGITS, TAGS, music_trunk
from training.onnx_graph import Graph
from training.terminal import quiet, show


@click.command()
@click.option(
    "--efficientat",
    "mn04",
    type=click.Path(path_type=Path),
    required=True,
    help=f"Teacher of the sounds: {efficientat.FILE}.",
)
@click.option(
    "--networks", type=click.Path(path_type=Path),
    help="Teacher of the tags, from 'genre train networks'.  [default: that in the model genre-sounds]",
)  # fmt: skip
@click.option(
    "--audio", type=click.Path(path_type=Path), multiple=True, required=True,
    help="Folder of unlabelled sound: one of music, one of speech, one of noises; each has the same share.",
)  # fmt: skip
@click.option(
    "--recipe", "view", type=click.Choice([FAST_RECIPE, FINE_RECIPE]), default=FAST_RECIPE, show_default=True,
    help=f"The student's view: {FINE_RECIPE} has as many frames as mn04's, for 'genre train networks'.",
)  # fmt: skip
@click.option("--windows", type=click.IntRange(64, 10_000_000), default=36_000, show_default=True)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=5, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4_096), default=64, show_default=True, help="Windows a step.")
@click.option("--learning-rate", type=Number(0, min_open=True), default=0.0005, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("results/distil"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/student.onnx"), show_default=True)
def distil(
    mn04: Path, networks: Path | None, audio: tuple[Path, ...], view: str, windows: int, epochs: int, batch: int,
    learning_rate: float, seed: int, work: Path, out: Path,
) -> None:  # fmt: skip
    """Teach a small network what both large ones answer, and write it as an ONNX file.

    \b
    Example: genre train distil --efficientat mn04_as_mAP_432.pt --audio music --audio speech --audio noises
    """
    tags = music_trunk(networks or folder.shipped())
    sounds = audio_files(audio)
    classes = load_card(folder.models_folder(name=folder.BASE), folder.BASE).sounds or ()
    takes_file("--out", out)
    takes_folder("--work", work)
    large = efficientat.read(mn04)
    with quiet():  # TensorFlow takes seconds to import; what is wrong with the files has been told by now.
        from training.distil import student, teach
    recipe = load_recipe(view)
    taught = labelled(sounds, Teachers(large, tags), recipe, windows, seed, work)
    begun = student.beginning(large)
    model = student.build(begun, recipe.shape)
    losses = teach.teach(model, taught, Plan(epochs, batch, learning_rate, seed), ranges_of(classes), show)
    graph = Graph()
    student.append(graph, student.read(model, begun), "features", TAGS, LOGITS, recipe.shape)
    made = graph.model({"features": recipe.shape}, {TAGS: [50], LOGITS: [len(classes)]})
    files.replace(out, made.SerializeToString())
    click.echo(f"wrote {out}: {graph.parameters()} parameters, loss {losses[0]} to {losses[-1]}")


def labelled(
    folders: Sequence[Sequence[Path]], teachers: Teachers, recipe: Recipe, count: int, seed: int, work: Path
) -> Taught:
    """Draw windows and ask the teachers about each; kept in `work`, for the next run with the same sounds.

    Raises:
        GenreError: for answers that are not finite, and a folder that can't be written.
    """
    digest = hashlib.sha256(f"{teachers.digest} {recipe.digest} {count} {seed}".encode())
    for paths in folders:
        digest.update(" ".join(f"{path.name} {path.stat().st_size}" for path in paths).encode() + b"\n")
    kept = work / f"taught-{digest.hexdigest()[:16]}.npz"
    if kept.is_file():
        try:
            with archive_of(kept) as archive:
                return Taught(*(archive[name] for name in ("features", "tags", "logits")))
        except UNREADABLE as error:
            raise GenreError(str(kept), f"can't be read ({error})", "remove it; it is made again") from error
    library = Library.read(folders, show)
    for line in library.skipped:
        click.echo(f"skipped {clean(line, MOST_TEXT)}", err=True)
    draw, own = Draw(library), Featurizer(recipe)
    features, tags, logits = [], [], []
    for row in range(count):
        window = draw.window((seed, row))[None]
        one = teachers.answer(window)
        features.append(own.features(window)[0].astype(np.float16))
        tags.append(one[0][0])
        logits.append(one[1][0])
        if row % 64 == 63 or row + 1 == count:
            show("teachers", row + 1, count)
    made = Taught(np.array(features), np.array(tags), np.array(logits))
    if not (np.isfinite(made.tags).all() and np.isfinite(made.logits).all()):
        raise GenreError("the teachers", "give values that are not finite", "check the audio given to --audio")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with files.replacing(kept) as new:
            np.savez(new, features=made.features, tags=made.tags, logits=made.logits)
    except OSError as error:
        raise GenreError(str(work), f"can't be written ({error})", "give --work a folder with room") from error
    return made
