"""What plays, as the stream's own metadata says it: changes of title or artist, told once and in order.

Tags come from ID3 (in TS, packed audio or emsg) and from EXTINF titles. Start at `NowPlaying`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from services.fetcher.events import Report, Track
from services.fetcher.media.id3 import Tags

MOST_WAITING = 32
"""Changes in one segment that are told: a title that plays for less than a second is noise, or an attack."""


class NowPlaying:
    """The track that plays, and changes that were not told yet."""

    def __init__(self) -> None:
        self._playing = ("", "")
        self._waiting: deque[tuple[int, str, str]] = deque(maxlen=MOST_WAITING)
        self._passed_over = 0

    def note(self, tags: Tags, at: int) -> None:
        """Note what plays from this timeline position on; the same as before is no change."""
        playing = (tags.title, tags.artist)
        if tags and playing != self._playing:
            self._playing = playing
            self._passed_over += len(self._waiting) == MOST_WAITING
            self._waiting.append((at, *playing))

    def swallow(self) -> None:
        """Before a resume point nothing is told; only the last track is kept, to be told at the resume point."""
        while len(self._waiting) > 1:
            self._waiting.popleft()
        self._passed_over = 0

    def tell(self, first: int) -> Iterator[Track | Report]:
        """Yield the changes before the audio they fall into, which begins at first."""
        if self._passed_over:
            reason = f"more than {MOST_WAITING} titles in one segment: only the last ones are told"
            yield Report("titles", reason, {"passed_over": self._passed_over})
            self._passed_over = 0
        while self._waiting:
            at, title, artist = self._waiting.popleft()
            yield Track(max(at, first), title, artist)
