"""How loud each window is.

Arithmetic on samples; no features, no streams. Start at `levels`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SILENT_DBFS = -60.0
"""RMS below which a window is silence: 10 dB above the noise of 8-bit sources, far below any faded music."""
_CLIP_RUN = 3


@dataclass(frozen=True)
class Levels:
    """Level of each window; all arrays have shape [n].

    Attributes:
        rms_dbfs: root mean square in dB of full scale (a full-scale square wave is 0); -inf for digital silence.
        peak_dbfs: largest sample in dB of full scale; -inf for digital silence.
        clipped: share of samples (0..1) that stand in runs of three or more at the window's extreme, near full scale.
    """

    rms_dbfs: NDArray[np.float32]
    peak_dbfs: NDArray[np.float32]
    clipped: NDArray[np.float32]

    @property
    def silent(self) -> NDArray[np.bool_]:
        """Whether each window is too quiet to have a genre."""
        return self.rms_dbfs < SILENT_DBFS


def levels(windows: NDArray[np.int16]) -> Levels:
    """Measure int16 windows, shape [n, samples]."""
    rms = np.empty(len(windows), np.float32)
    peak, clipped = np.empty_like(rms), np.empty_like(rms)
    for index, window in enumerate(windows):
        loud = int(max(-int(window.min(initial=0)), int(window.max(initial=0))))
        signal = window.astype(np.float32)
        signal -= signal.mean()  # A DC offset is not sound.
        rms[index] = _db(float(np.sqrt(np.dot(signal, signal) / max(signal.size, 1))))
        peak[index] = _db(loud)
        clipped[index] = _clipped(window, loud)
    return Levels(rms, peak, clipped)


def _clipped(window: NDArray[np.int16], loud: int) -> float:
    """Return the share of samples in runs of three or more at the extreme; a lone full-scale sample is not clipped."""
    if loud < 0.98 * 32_767:
        return 0.0
    limit = loud - 1
    edge = np.flatnonzero(np.diff(np.concatenate(([False], (window >= limit) | (window <= -limit), [False]))))
    runs = edge[1::2] - edge[0::2]
    return float(runs[runs >= _CLIP_RUN].sum() / window.size)


def _db(amplitude: float) -> float:
    """Return an amplitude in int16 steps as dB of full scale."""
    return float(20 * np.log10(amplitude / 32_768)) if amplitude > 0 else float("-inf")
