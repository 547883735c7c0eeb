"""What plays, as the stream's own metadata says it: changes of title or artist, told once and in order.

Tags come from ID3 (in TS, packed audio or emsg) and from EXTINF titles. Start at `NowPlaying`.
"""

from __future__ import annotations

from collections.abc import Iterator

from services.fetcher.heard import Track
from services.fetcher.id3 import Tags


class NowPlaying:
    """The track that plays, and changes that were not told yet."""

    def __init__(self) -> None:
        self._playing = ("", "")
        self._waiting: list[tuple[int, str, str]] = []

    def note(self, tags: Tags, at: int) -> None:
        """Note what plays from this timeline position on; the same as before is no change."""
        playing = (tags.title, tags.artist)
        if tags and playing != self._playing:
            self._playing = playing
            self._waiting.append((at, *playing))

    def swallow(self) -> None:
        """Before a bookmark nothing is told; only the last track is kept, to be told at the bookmark."""
        self._waiting = self._waiting[-1:]

    def tell(self, first: int) -> Iterator[Track]:
        """Yield the changes before the audio they fall into, which begins at first."""
        for at, title, artist in self._waiting:
            yield Track(max(at, first), title, artist)
        self._waiting = []
