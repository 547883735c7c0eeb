"""Short music files of known samples, and one packaged folder of them."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from services.origin.packager import Packaging, package_folder

RATE = 44_100


def write_flac(file: Path, seconds: float, hz: float = 440.0, **tags: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    time_s = np.arange(int(seconds * RATE)) / RATE
    sound = (8000 * np.sin(2 * np.pi * hz * time_s)).astype(np.int16)
    with av.open(str(file), "w", format="flac") as container:
        container.metadata.update(tags)
        stream = container.add_stream("flac", rate=RATE, layout="stereo", format="s16")
        frame = av.AudioFrame.from_ndarray(np.repeat(sound, 2).reshape(1, -1), format="s16", layout="stereo")
        frame.rate = RATE
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pieces, of 9 and 5 seconds, as TS in segments of 2 s."""
    folder = tmp_path_factory.mktemp("music")
    write_flac(folder / "first.flac", 9, 440, title="Long One", artist="Test")
    write_flac(folder / "second.flac", 5, 880)
    package_folder(folder, folder / "hls", Packaging(segment_s=2.0, coder="fast"))
    return folder / "hls"
