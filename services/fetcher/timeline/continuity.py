"""Whether a segment goes on where the one before it ended; if not, why, and by how much the clock jumps.

Remembers the media time at which the next segment should begin. Decides only: what follows from it is epochs.py's
business. Start at `Continuity.break_reason`.
"""

from __future__ import annotations

from services.fetcher.media.timestamps import jump_s
from services.fetcher.segment import Segment
from services.fetcher.timeline.epoch import Epoch, SegmentInHand

# Segments that begin so close to each other, by their own clocks, begin at the same time.
SAME_START_S = 0.03


class Continuity:
    """What is known of the place where one stream goes on.

    Args:
        tolerance_s: a jump of timestamps from here on breaks the epoch.

    Attributes:
        last: the segment that came before.
        restarted: why what comes next does not continue it, whatever its numbers say; None where nothing says so.
    """

    def __init__(self, tolerance_s: float) -> None:
        self.tolerance_s = tolerance_s
        self.last: SegmentInHand | None = None
        self.restarted: str | None = None
        self._expected_s: float | None = None
        self._wraps = True

    def expect(self, media_s: float | None, wraps: bool) -> None:
        """Note at which media time the next segment should begin (None: unknown), and whether its clock has 33 bits."""
        self._expected_s, self._wraps = media_s, wraps

    def expect_after(self, now: SegmentInHand, drift_s: float = 0.0) -> None:
        """Note that what comes next should begin where this segment has got to."""
        expected = now.expected if now.media.timed else None
        self.expect(None if expected is None else expected * now.media.tick_s - drift_s, now.media.wraps)

    def leave_out(self, drift_s: float) -> None:
        """Take off by how much the timestamps of the epoch that ends here are ahead of its samples."""
        if self._expected_s is not None:
            self._expected_s -= drift_s

    def jump_to(self, media_s: float | None, wraps: bool) -> float | None:
        """Return by how much a media time is ahead of the expected one, in seconds; None where that can't be told."""
        if media_s is None or self._expected_s is None or wraps != self._wraps:
            return None
        return jump_s(media_s, self._expected_s, wraps)

    def is_next(self, segment: Segment) -> bool:
        """Say whether a segment is listed right behind the last one, without a discontinuity between them."""
        if self.last is None:
            return False
        before = self.last.segment
        return (segment.media_sequence, segment.discontinuity_sequence) == (
            before.media_sequence + 1,
            before.discontinuity_sequence,
        )

    def break_reason(self, now: SegmentInHand, epoch: Epoch | None, gap: bool, half_frame_s: float) -> str | None:
        """Return in a word why a segment opens a new epoch, or None where it continues the running one.

        Args:
            gap: something is missing before it.
            half_frame_s: of its first frame.
        """
        if self.restarted:
            return self.restarted
        if epoch is None:
            return "gap" if gap else "start"
        for part, reason in enumerate(("map", "format", "format"), 1):
            if now.identity[part] != epoch.identity[part]:
                return "discontinuity" if now.identity[0] != epoch.identity[0] else reason
        if now.identity[0] != epoch.identity[0]:
            return None if not gap and self._goes_on_all_the_same(now, epoch, half_frame_s) else "discontinuity"
        if gap:
            return "gap"
        jump = self.jump_to(now.start_s, now.media.wraps)
        if jump is None or self._starts_alike(now):
            return None
        most = half_frame_s if now.torn else self.tolerance_s
        return "timestamps" if jump <= -self.tolerance_s or jump + epoch.drift_s >= most else None

    def _goes_on_all_the_same(self, now: SegmentInHand, epoch: Epoch, half_frame_s: float) -> bool:
        """Say whether nothing changes at a discontinuity: some packagers announce one before every segment.

        The clock must go on to half a frame; each segment with a clock of its own says nothing about that.
        """
        last, jump = self.last, self.jump_to(now.start_s, now.media.wraps)
        if last is None or jump is None or now.torn:
            return False
        follows = now.segment.media_sequence == last.segment.media_sequence + 1
        return follows and abs(jump + epoch.drift_s) < half_frame_s

    def _starts_alike(self, now: SegmentInHand) -> bool:
        """Say whether each segment has a clock of its own: this one begins at the very time at which the last began."""
        last = self.last
        if last is None or now.start_s is None or last.start_s is None or last.offset_s:
            return False
        follows = now.segment.media_sequence == last.segment.media_sequence + 1
        return follows and abs(now.start_s - last.start_s) < SAME_START_S
