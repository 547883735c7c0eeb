"""A stream's stages: its host, its playlist, its audio; with the fetcher's own code, so it hears the same.

Start at `part`.
"""

from __future__ import annotations

import threading
from urllib.parse import urlsplit

from services.doctor.broker import connect, resolve
from services.doctor.stages import Part
from services.errors import GenreError
from services.settings.schema import Hls, Stream

TIMEOUT_S = 40.0


def part(stream: Stream, hls: Hls) -> Part:
    """Return a stream's chain of checks."""
    url = urlsplit(stream.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    return Part(
        f"stream {stream.name}",
        [
            ("DNS", lambda: resolve(host)),
            ("TCP", lambda: connect(host, port, "check the URL's host and port")),
            ("fetch and decode", lambda: hear(stream, hls)),
        ],
    )


def hear(stream: Stream, hls: Hls) -> str:
    """Listen until the first audio comes.

    Raises:
        GenreError: what the fetcher says of this stream, or that no audio came.
    """
    from services.contract.windows import SAMPLE_RATE
    from services.fetcher.events import Audio, Gap
    from services.fetcher.source import StreamSource

    stop = threading.Event()
    timer = threading.Timer(TIMEOUT_S, stop.set)
    timer.start()
    source = StreamSource(stream, hls, stop)
    gaps: list[Gap] = []
    try:
        for item in source.listen():
            if isinstance(item, Audio):
                loudest = int(abs(item.pcm.astype("int32")).max()) if len(item.pcm) else 0
                silent = " of digital silence" if loudest == 0 else ""
                return f"first segment: {len(item.pcm) / SAMPLE_RATE:.1f} s{silent}"
            if isinstance(item, Gap):
                gaps.append(item)
                if len(gaps) > 5:
                    break
    finally:
        timer.cancel()
        source.close()
    why = f"{gaps[-1].cause}: {gaps[-1].detail}" if gaps else f"none within {TIMEOUT_S:g} s"
    remedy = "'genre record URL --out heard.wav' shows what the fetcher meets, step by step"
    raise GenreError(f"stream {stream.name}", f"no audio ({why})", remedy)
