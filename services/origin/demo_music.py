"""The demo's own music as files: titles, and rendering into a folder once.

The tunes are in `pieces.py`. Deterministic: the same samples on every machine of one numpy. Start at `render`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from services.origin import pieces
from services.origin.instruments import RATE

PIECES: dict[str, Callable[[], NDArray[np.float32]]] = {
    piece.__name__: piece
    for piece in (
        pieces.blues,
        pieces.classical,
        pieces.country,
        pieces.disco,
        pieces.hiphop,
        pieces.jazz,
        pieces.metal,
        pieces.pop,
        pieces.reggae,
        pieces.rock,
    )
}
TITLES = {
    "blues": "Late Bus Shuffle",
    "classical": "Prelude for an Empty Hall",
    "country": "Two Fences Over",
    "disco": "Mirror Room",
    "hiphop": "Corner Loop",
    "jazz": "Three at the Window",
    "metal": "Iron Weather",
    "pop": "Same Four Lights",
    "reggae": "Slow Harbour",
    "rock": "Second Gear",
}
ARTIST = "genre-edge"


def render(folder: Path, names: Sequence[str] = tuple(PIECES)) -> list[Path]:
    """Write each piece as NAME.flac (44.1 kHz stereo, titled) unless it is there already; return the files.

    Args:
        folder: made where it does not exist.
        names: which pieces of `PIECES`.

    Raises:
        OSError: the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.flac" for name in names]
    for done, (name, file) in enumerate(zip(names, files, strict=True)):
        if not file.exists():
            if sys.stderr.isatty():
                print(f"\rrendering the demo's music: {done + 1}/{len(files)}", end="", file=sys.stderr, flush=True)
            unfinished = file.with_suffix(".part")
            _write_flac(unfinished, PIECES[name](), TITLES[name])
            unfinished.replace(file)
            if sys.stderr.isatty() and done + 1 == len(files):
                print(file=sys.stderr)
    return files


def _write_flac(file: Path, sound: NDArray[np.float32], title: str) -> None:
    """Write float sound, shape (2, samples), as 16-bit FLAC."""
    interleaved = (sound.T * 32767).astype(np.int16)
    with av.open(str(file), "w", format="flac") as container:
        container.metadata.update({"title": title, "artist": ARTIST, "genre": file.stem})
        stream = container.add_stream("flac", rate=RATE, layout="stereo", format="s16")
        for start in range(0, len(interleaved), 1 << 16):
            block = np.ascontiguousarray(interleaved[start : start + (1 << 16)]).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            frame.rate, frame.pts = RATE, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m services.origin.demo_music FOLDER")
    try:
        render(Path(sys.argv[1]))
    except OSError as error:
        sys.exit(f"demo music: {sys.argv[1]}: can't be written ({error.strerror}); name another folder")
