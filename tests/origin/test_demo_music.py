"""The demo's music: sane, deterministic, rendered once."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from services.origin.demo_music import PIECES, RATE, TITLES, render


@pytest.mark.parametrize("name", list(PIECES))
def test_a_piece_is_music_of_a_minute_or_so(name: str) -> None:
    sound = PIECES[name]()
    assert sound.dtype == np.float32
    assert 55 <= sound.shape[1] / RATE <= 90
    assert np.isfinite(sound).all()
    assert np.abs(sound).max() < 1
    assert 0.05 < float(np.sqrt(np.mean(sound**2))) < 0.5
    seconds = np.abs(sound[:, : sound.shape[1] // RATE * RATE]).reshape(2, -1, RATE).max(axis=(0, 2))
    assert (seconds[:-3] > 0.05).all(), "a second of silence"


def test_a_piece_is_the_same_every_time() -> None:
    assert np.array_equal(PIECES["metal"](), PIECES["metal"]())


def test_render_writes_titled_stereo_once(tmp_path: Path) -> None:
    (file,) = render(tmp_path / "music", ["reggae"])
    with av.open(str(file)) as container:
        assert container.metadata["title"] == TITLES["reggae"]
        stream = container.streams.audio[0]
        assert (stream.rate, stream.channels) == (RATE, 2)
    before = file.stat()
    assert render(tmp_path / "music", ["reggae"]) == [file]
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert [path.name for path in file.parent.iterdir()] == ["reggae.flac"]
