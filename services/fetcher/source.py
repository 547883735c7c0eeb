"""Where a stream's audio comes from: HLS, or one continuous response; the first bytes of its URL decide.

Both yield the same typed events, and nothing behind them knows which it is. Start at `StreamSource.listen`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from services.fetcher.continuous.reader import ContinuousReader
from services.fetcher.continuous.station import Station
from services.fetcher.events import BEGINNING, Start, StreamEvent
from services.fetcher.hls.reader import PlaylistReader
from services.fetcher.http.client import Origin
from services.fetcher.http.response import Response
from services.fetcher.http.watch import StoppedError
from services.fetcher.timeline.assembler import NativeSink
from services.settings.schema import Hls, Stream


class StreamSource:
    """One stream, from its URL to what is heard.

    Args:
        stream: which.
        hls: how.
        stop: when it is set, `listen` returns within a second.
        start: from where to listen.
        native: called with (epoch number, rate, one array a channel) before mixing; for `genre record`.

    Attributes:
        origin: the HTTP side.

    Raises:
        UsageError: a file that the settings name can't be used.
    """

    def __init__(
        self,
        stream: Stream,
        hls: Hls,
        stop: threading.Event,
        start: Start = BEGINNING,
        native: NativeSink | None = None,
    ) -> None:
        self.origin = Origin(stream, hls, stop)
        self._start, self._native = start, native

    def listen(self) -> Iterator[StreamEvent]:
        """Yield what is heard, in timeline order, until the stream ends or the stop is set.

        Raises:
            GenreError: the stream can't be heard: URL, reason, remedy.
        """
        station = Station(self.origin, self.origin.stream.url)
        try:
            found = station.open()
            if isinstance(found, Response):
                yield from PlaylistReader(self.origin, self._start, self._native, found).listen()
            else:
                yield from ContinuousReader(self.origin, station, self._start, self._native).listen(found)
        except StoppedError:
            return

    def has_more(self) -> bool | None:
        """Look whether a stream that has ended goes on.

        Returns:
            None where that will never be: a file that was heard to its end, or a list of type VOD.

        Raises:
            GenreError: it can't be had.
        """
        try:
            found = Station(self.origin, self.origin.stream.url).open()
        except StoppedError:
            return False
        if isinstance(found, Response):
            return PlaylistReader(self.origin, self._start, found=found).has_more()
        found.response.close()
        return None if found.is_file else True

    def close(self) -> None:
        """Close the connections."""
        self.origin.close()
