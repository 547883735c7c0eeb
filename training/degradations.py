"""What happens to sound on its way to a stream, done to windows: level, codec, band, telephone, talk over music.

int16 windows in, int16 windows out, the same length; each is a function of one window. Start at `ROBUSTNESS` (what
`genre train evaluate --robustness` tries) and `varied` (what heads learn from).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import av
import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

from services.contract.windows import SAMPLE_RATE

Pcm = NDArray[np.int16]
Degradation = Callable[[Pcm], Pcm]
_FULL = 32_768
_NYQUIST = SAMPLE_RATE / 2
TELEPHONE_HZ = (300.0, 3400.0)
_TELEPHONE = butter(4, [edge / _NYQUIST for edge in TELEPHONE_HZ], "band", output="sos")
_BAND_8K = butter(8, 8_000 / _NYQUIST, output="sos")
_REFERENCE_DBFS = -20.0
CODEC_RATE = 44_100


def _whole(signal: NDArray[np.floating]) -> Pcm:
    """Return int16 of samples in -1..1, clipped where they go beyond."""
    made: Pcm = np.clip(np.rint(signal * _FULL), -_FULL, _FULL - 1).astype(np.int16)
    return made


def rms(window: NDArray[np.generic]) -> float:
    """Return the root mean square of a window of int16, 0..1."""
    return float(np.sqrt(np.mean(np.square(window.astype(np.float64) / _FULL))))


def gained(db: float) -> Degradation:
    """Return what makes a window louder by so many dB; it clips at full scale."""
    return lambda window: _whole(window.astype(np.float64) / _FULL * 10 ** (db / 20))


def at_level(dbfs: float) -> Degradation:
    """Return what brings a window to an RMS level; silence stays."""

    def apply(window: Pcm) -> Pcm:
        level = rms(window)
        return window if level == 0 else gained(dbfs - 20 * np.log10(level))(window)

    return apply


def telephone(window: Pcm) -> Pcm:
    """Return a window as a telephone lets it through: 300 to 3,400 Hz."""
    return _whole(sosfilt(_TELEPHONE, window / _FULL))


def band_8k(window: Pcm) -> Pcm:
    """Return a window without what lies above 8 kHz."""
    return _whole(sosfilt(_BAND_8K, window / _FULL))


def aac(bit_rate: int) -> Degradation:
    """Return what encodes a window in AAC at so many bit/s, mono at 44,100 Hz, and decodes it again."""

    def apply(window: Pcm) -> Pcm:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="adts") as sink:
            stream = sink.add_stream("aac", rate=CODEC_RATE, layout="mono")
            stream.bit_rate = bit_rate
            up = av.AudioResampler("fltp", "mono", CODEC_RATE)
            frame = av.AudioFrame.from_ndarray(window[None], "s16", "mono")
            frame.sample_rate = SAMPLE_RATE
            for part in (*up.resample(frame), *up.resample(None)):
                part.pts = None
                sink.mux(stream.encode(part))
            sink.mux(stream.encode(None))
        buffer.seek(0)
        down = av.AudioResampler("s16", "mono", SAMPLE_RATE)
        with av.open(buffer, format="aac") as source:
            parts = [made for frame in source.decode(audio=0) for made in down.resample(frame)]
            parts += down.resample(None)
        decoded = np.concatenate([part.to_ndarray()[0] for part in parts]).astype(np.int16)
        # The encoder's first frame is its own delay; what lacks at the end is silence.
        start = round(1024 * SAMPLE_RATE / CODEC_RATE)
        return np.resize(np.pad(decoded[start:], (0, max(0, len(window) - len(decoded) + start))), len(window))

    return apply


def over(speech: Pcm, music: Pcm, db: float) -> Pcm:
    """Return speech over music: the speech is louder by `db`, the louder one stands at -20 dBFS."""
    voice, band = (x / _FULL / max(rms(x), 1e-9) for x in (speech, music))
    voice, band = (voice, band * 10 ** (-db / 20)) if db > 0 else (voice * 10 ** (db / 20), band)
    return _whole((voice + band) * 10 ** (_REFERENCE_DBFS / 20))


ROBUSTNESS: Mapping[str, Degradation] = {
    "level -6 dB": gained(-6),
    "level -12 dB": gained(-12),
    "level -20 dB": gained(-20),
    "level +6 dB": gained(6),
    "AAC 32 kbit/s": aac(32_000),
    "AAC 64 kbit/s": aac(64_000),
    "AAC 128 kbit/s": aac(128_000),
    "8 kHz of band": band_8k,
    "telephone": telephone,
}


def varied(window: Pcm, random: np.random.Generator) -> Pcm:
    """Return a window as it may reach a listener: at some level, at times through a telephone or clipped."""
    way = random.random()
    if way < 0.35:
        return telephone(window)
    if way < 0.6:
        return at_level(random.uniform(-6, 0))(window)
    return at_level(random.uniform(-40, -10))(window)
