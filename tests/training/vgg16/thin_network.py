"""VGG16 with few filters and without ImageNet's weights: the same way through training at a hundredth of the work."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from training.vgg16 import network, onnx_graph


def take_thin_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let training, export and evaluation have it in place of VGG16."""
    for module in (network, onnx_graph):
        monkeypatch.setattr(module, "BLOCKS", ((2, 8), (1, 8), (2, 16), (1, 16), (1, 16)))

    def louder(path: Path | None) -> network.Weights:
        keras.utils.set_random_seed(1)
        made = network.read_weights(network.network())
        return {name: (1.5 * kernel, bias) for name, (kernel, bias) in made.items() if name.startswith("block")}

    monkeypatch.setattr(network, "imagenet", louder)
