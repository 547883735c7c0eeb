"""How long the unreadable stretches of packed audio are: nothing in it tells the time but its own frames.

Pure: batches in, batches out. Start at `with_lengths`.
"""

from __future__ import annotations

from services.fetcher.media.framing import Batch
from services.fetcher.media.timestamps import CLOCK_HZ


def with_lengths(batches: list[Batch], duration_s: float) -> list[Batch]:
    """Say how long the unreadable stretches of packed audio are: as long as its EXTINF leaves, where that is credible.

    Else in proportion to their bytes. Less than a frame at the start is the end of one that was begun elsewhere.
    """
    readable = [(len(bytes(b.packet)), b.seconds, max(b.frames, 1)) for b in batches if b.packet]
    heard_bytes, heard_s, count = (sum(column) for column in zip(*readable, strict=True))
    frame_bytes, frame_s = heard_bytes / count, heard_s / count
    holes = []
    for place, batch in enumerate(batches):
        if batch.packet is None and not (place == 0 and batch.skipped < frame_bytes and not batch.cut):
            frames_lost = max(round(batch.skipped / frame_bytes), int(batch.cut))
            if frames_lost:
                holes.append((place, frames_lost * frame_s))
    guess_s, left_s = sum(seconds for _, seconds in holes), duration_s - heard_s
    scale = left_s / guess_s if holes and 0.5 * guess_s <= left_s <= 2.0 * guess_s else 1.0
    lengths = {place: seconds * scale for place, seconds in holes}
    placed, later_s = [], 0.0
    for place, batch in enumerate(batches):
        if batch.packet is None and place in lengths:
            placed.append(batch._replace(seconds=lengths[place]))
            later_s += lengths[place]
        elif batch.packet is not None:
            batch.packet.pts += round(later_s * CLOCK_HZ)
            placed.append(batch)
    return placed
