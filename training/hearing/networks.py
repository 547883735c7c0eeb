"""`genre train networks`: musicnn from its package's wheel, beside a student's sounds, as one ONNX file without a head.

musicnn loses the filters that never move; both stay in float (int8 was tried: docs/models.md). Start at `build`;
`Networks` runs the file, `trunk` takes both out of a finished model.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx.utils
from numpy.typing import NDArray

from services import files
from services.contract.recipe import ONE_VIEW, load_recipe
from services.errors import GenreError
from services.featurizer.features import Views
from services.inference.onnx_backend import session
from training.data import taggrams
from training.data.calibration import windows_of
from training.given import network, takes_file
from training.musicnn import network as musicnn
from training.musicnn.prune import odd_sounds, without_constants
from training.onnx_graph import OPSET, Graph

RECIPE, FAST_RECIPE, FINE_RECIPE = "mel96-mel115", "mel115", "mel115-300"
"""Of both networks, of a student that answers for both from fewer frames, and of one whose view is the second of both.
No view is resampled, which took half of the features' time: 704 samples at 22,050 Hz are as long as musicnn's 512 at
16,000, and the level makes up for their number."""
MUSIC, SOUND = "mel96", "mel115"
"""The recipe's views: of musicnn and of the student."""
MUSIC_RECIPE = "mel96"
"""musicnn's view as it was trained on, at 16,000 Hz."""
TAGS, LOGITS = "tags", "logits"

_MAKE = "make it with 'genre train networks' or 'genre train distil', or give a model's 1/model.onnx"
_STUDENT = f"make it with 'genre train distil --recipe {FINE_RECIPE}'"

Floats = NDArray[np.float32]


def build(
    music: musicnn.Weights, student: onnx.ModelProto | None, windows: Floats, trained_on: Floats
) -> onnx.ModelProto:
    """Return the networks as one model: views in, `tags` [batch, 50] and `logits` [batch, 521] out.

    Args:
        student: what gives the logits; without one there are tags alone, for a student's teacher.
        windows: features of real sounds by the view MUSIC, which tell which of musicnn's filters move.
        trained_on: the same windows by musicnn's own recipe.
    """
    met = np.concatenate([windows, odd_sounds((musicnn.FRAMES, musicnn.BANDS))])
    moving, _, _ = without_constants(_music(music, *_alike(windows, trained_on)), met)
    return moving if student is None else joined(moving, _sounds(student))


def _alike(windows: Floats, trained_on: Floats) -> tuple[Floats, Floats]:
    """Return a scale and a shift of each band that give our view the mean and the spread of musicnn's own.

    The highest three bands need it, where the filter of its resampling ended: without it tags correlate by 0.982 with
    its own, with it by 0.997.
    """
    mean, own_mean = (x.mean(axis=(0, 1), dtype=np.float64) for x in (trained_on, windows))
    spread, own_spread = (x.std(axis=(0, 1), dtype=np.float64) + 1e-6 for x in (trained_on, windows))
    scale = spread / own_spread
    return scale.astype(np.float32), (mean - scale * own_mean).astype(np.float32)


def joined(first: onnx.ModelProto, second: onnx.ModelProto, names: tuple[tuple[str, str], ...] = ()) -> onnx.ModelProto:
    """Return two models as one; `names` are (output of the first, input of the second) that are tied together."""
    models = []
    for prefix, model in (("a_", first), ("b_", second)):
        kept = {value.name for value in (*model.graph.input, *model.graph.output)}
        renamed = onnx.ModelProto()
        renamed.CopyFrom(model)
        _prefix(renamed.graph, prefix, kept)
        del renamed.opset_import[1:]
        renamed.opset_import[0].version = OPSET
        renamed.ir_version = 7
        models.append(renamed)
    made = onnx.compose.merge_models(*models, io_map=list(names), producer_name="genre-edge")
    made.ir_version = 7
    del made.opset_import[1:]  # The merger writes the same one down once a model.
    onnx.checker.check_model(made, full_check=True)
    return made


def _prefix(graph: Any, prefix: str, kept: set[str]) -> None:
    """Give every inner value of a graph a prefix, unless it has one already."""

    def name(old: str) -> str:
        return old if not old or old in kept else prefix + old

    for node in graph.node:
        node.name = prefix + node.name
        node.input[:] = [name(each) for each in node.input]
        node.output[:] = [name(each) for each in node.output]
    for tensor in graph.initializer:
        tensor.name = name(tensor.name)
    del graph.value_info[:]


def _music(weights: musicnn.Weights, scale: Floats, shift: Floats) -> onnx.ModelProto:
    """Return musicnn alone, from its view, whose bands are scaled and shifted first, to its tags."""
    graph = Graph()
    bands = graph.affine(MUSIC, scale, shift, [1, 1, -1])
    graph.add("Identity", musicnn.Trunk(graph, weights, bands).tags, name=TAGS)
    return graph.model({MUSIC: [musicnn.FRAMES, musicnn.BANDS]}, {TAGS: [len(taggrams.TAGS)]})


def _sounds(student: onnx.ModelProto) -> onnx.ModelProto:
    """Return a student's sounds alone, its view under the name that it has in the recipe of both."""
    made = onnx.utils.Extractor(student).extract_model([ONE_VIEW], [LOGITS])
    made.graph.input[0].name = SOUND
    for node in made.graph.node:
        node.input[:] = [SOUND if name == ONE_VIEW else name for name in node.input]
    return made


def trunk(path: Path) -> onnx.ModelProto:
    """Return both networks without a head: a file of `genre train networks` or `distil`, or a model made from one.

    Raises:
        GenreError: where the file holds none.
    """
    model = network(path, _MAKE)
    if {value.name for value in model.graph.output} == {TAGS, LOGITS}:
        return model
    return _part(model, [value.name for value in model.graph.input], [TAGS, LOGITS], path)


def music_trunk(path: Path) -> onnx.ModelProto:
    """Return musicnn alone, of a file of `genre train networks` or a model made from one.

    Raises:
        GenreError: where the file holds none.
    """
    return _part(network(path, _MAKE), [MUSIC], [TAGS], path)


def _part(model: onnx.ModelProto, inputs: list[str], outputs: list[str], path: Path) -> onnx.ModelProto:
    """Return what leads from some inputs to some values of a model."""
    made = {name for node in model.graph.node for name in node.output}
    taken = {value.name for value in model.graph.input}
    if not set(outputs) <= made or not set(inputs) <= taken:
        given = ", ".join(value.name for value in model.graph.output)
        missing = " and ".join(outputs) + (f" of {', '.join(inputs)}" if inputs else "")
        found = f"takes {', '.join(sorted(taken))}, gives {given} and holds no {missing}"
        raise GenreError(str(path), found, _MAKE)
    return onnx.utils.Extractor(model).extract_model(inputs, outputs)


class Networks:
    """Runs both networks, or a student that answers for both.

    Attributes:
        recipe: what it takes, by its id.
    """

    def __init__(self, path: Path) -> None:
        """Load the file that `genre train networks` or `distil` wrote, or a model that was exported with one.

        Raises:
            GenreError: where it is none.
        """
        with tempfile.NamedTemporaryFile(suffix=".onnx") as scratch:
            scratch.write(trunk(path).SerializeToString())
            scratch.flush()
            self._session = session(Path(scratch.name))
        inputs = {value.name: tuple(value.shape[1:]) for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        recipes = [each for each in (RECIPE, FAST_RECIPE, FINE_RECIPE) if load_recipe(each).shapes == inputs]
        if not recipes or outputs != {TAGS, LOGITS}:
            found = f"takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}"
            raise GenreError(str(path), found, _MAKE)
        self.recipe = recipes[0]

    def answer(self, views: Views) -> tuple[Floats, Floats]:
        """Return tags [n, 50] and the sound network's mean logits [n, 521] of windows, given as the recipe's views."""
        count = len(next(iter(views.values())))
        rows = [
            self._session.run([TAGS, LOGITS], {name: view[place : place + 1] for name, view in views.items()})
            for place in range(count)
        ]
        return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


@click.command()
@click.option("--musicnn", "wheel", type=click.Path(path_type=Path), required=True, help=musicnn.WHEEL)
@click.option(
    "--student", type=click.Path(path_type=Path),
    help="From 'genre train distil', for the sounds.  [default: tags alone, which can teach a student]",
)  # fmt: skip
@click.option(
    "--audio", type=click.Path(path_type=Path), required=True, multiple=True,
    help="Folder of real sound: music, speech and noises; repeatable.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/networks.onnx"), show_default=True)
def networks(wheel: Path, student: Path | None, audio: tuple[Path, ...], out: Path) -> None:
    """Write musicnn and a student's sounds as one ONNX file, for 'genre train listen' and 'genre train export'.

    \b
    Example: genre train networks --musicnn musicnn-0.1.0-py3-none-any.whl --student student.onnx --audio sounds
    """
    takes_file("--out", out)
    heard = None if student is None else network(student, _STUDENT)
    if heard is not None and Networks(student).recipe != FINE_RECIPE:  # type: ignore[arg-type]
        raise GenreError(str(student), "is no student of that view", _STUDENT)
    windows, trained_on = (windows_of(audio, load_recipe(name)) for name in (RECIPE, MUSIC_RECIPE))
    model = build(musicnn.checkpoint(wheel), heard, windows[MUSIC], trained_on[ONE_VIEW])
    files.replace(out, model.SerializeToString())
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
