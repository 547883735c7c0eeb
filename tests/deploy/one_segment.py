"""Segments -> decode -> mel -> ONNX model, with the services' own code; run on two kinds of processor and compared.

    python one_segment.py PLAYLIST MODELS MODEL OUT.npz

Not a test; test_arm64.py runs it. Start at `main`.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np

from services.featurizer.features import Featurizer
from services.fetcher.events import Audio
from services.fetcher.hls.playlist import MediaPlaylist, parse
from services.fetcher.timeline.epochs import Epochs
from services.inference.card import load_card
from services.inference.onnx_backend import OnnxBackend

WINDOW, HOP = 66_000, 33_000


def main(playlist: Path, models: Path, model: str, out: Path) -> None:
    """Hear every segment of a playlist, classify every window, write all that came of it on the way."""
    listed = parse(playlist.read_text(), playlist.name)
    assert isinstance(listed, MediaPlaylist)
    epochs = Epochs()
    heard = []
    for segment in listed.segments:
        data = (playlist.parent / segment.uri).read_bytes()
        heard += list(epochs.decode(segment, data, None, 0.0))
    heard += list(epochs.end())
    pcm = np.concatenate([item.pcm for item in heard if isinstance(item, Audio)])
    windows = np.stack([pcm[at : at + WINDOW] for at in range(0, len(pcm) - WINDOW + 1, HOP)])
    card = load_card(models, model)
    views = Featurizer(card.recipe).views(windows)
    answer = OnnxBackend(card).answer(views)
    features = np.concatenate([view.reshape(len(view), -1) for view in views.values()], axis=1)
    np.savez(out, pcm=pcm, features=features, scores=answer.scores, machine=platform.machine())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
