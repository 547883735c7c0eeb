"""The two teachers of a student: musicnn for the tags, mn04 for the sounds, each over its own view of a window.

Start at `Teachers.answer`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from services.contract.recipe import load_recipe
from services.featurizer.features import Featurizer
from training.efficientat import network as efficientat
from training.hearing.networks import LOGITS, MUSIC, RECIPE, TAGS
from training.onnx_graph import Graph

SOUND_RECIPE = "mel128-32000"
"""mn04's own view: librosa's mel bands for Kaldi's, whose logits correlate by 0.9997 with its own front end's."""


class Teachers:
    """Asks both about windows.

    Attributes:
        digest: changes with either of them.
    """

    def __init__(self, sounds: efficientat.Network, tags: onnx.ModelProto) -> None:
        """Load them.

        Args:
            tags: musicnn alone, from `music_trunk`.
        """
        shape = (efficientat.FRAMES, efficientat.BANDS)
        graph = Graph()
        graph.add("Identity", efficientat.append(graph, sounds, "features", shape)[1], name=LOGITS)
        models = [
            tags.SerializeToString(),
            graph.model({"features": shape}, {LOGITS: [len(sounds.classes[1])]}).SerializeToString(),
        ]
        self.digest = hashlib.sha256(b"".join(models)).hexdigest()
        self._tags, self._sounds = map(_engine, models)
        self._tags_view, self._sounds_view = (Featurizer(load_recipe(each)) for each in (RECIPE, SOUND_RECIPE))

    def answer(self, windows: NDArray[np.int16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return musicnn's tags [n, 50] and mn04's logits [n, 521] of windows [n, 66000]."""
        (tags,) = self._tags.run([TAGS], {MUSIC: self._tags_view.views(windows)[MUSIC]})
        (logits,) = self._sounds.run([LOGITS], {"features": self._sounds_view.features(windows)})
        return tags, logits


def _engine(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
