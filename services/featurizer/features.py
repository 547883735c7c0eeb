"""PCM windows to tensors: the one place in the project where a model's input is computed.

No MQTT, no files, no librosa: services, training and `genre classify` all call this, so a model never sees other
numbers in training than in service. Start at `Featurizer.views`; librosa is the oracle it is tested against.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import soxr
from numpy.typing import NDArray

from services.contract.recipe import Recipe, View
from services.contract.windows import SAMPLE_RATE
from services.featurizer import filters

Pcm = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]
Features = NDArray[np.float32]
Views = dict[str, Features]
"""Tensors of some windows by the view's name, each float32 [n, frames, bands]."""

_AMIN = np.float32(1e-10)
"""Floor of librosa.power_to_db, in power."""
_TOP_DB = np.float32(80.0)
_LOG_TO_DB = np.float32(10 / np.log(10))
_LOG_TO_LOG10 = np.float32(1 / np.log(10))
_LOG_FLOORS = {"log_0.001": np.float32(0.001), "log_1e-5": np.float32(1e-5)}
_TINY = np.finfo(np.float32).tiny
_MOST_GAIN = 1_000.0
"""60 dB: what is quieter than its level by more than that is silence, and its noise is not blown up further."""


class Featurizer:
    """Features of one recipe.

    Keeps its filter banks and work arrays, so make one and use it for all windows; not for use by two threads at once.

    Example:
        >>> from services.contract.recipe import load_recipe
        >>> Featurizer(load_recipe("vgg16")).features(np.zeros((2, 66_000), np.int16)).shape
        (2, 129, 128)
    """

    def __init__(self, recipe: Recipe) -> None:
        """Build the filter banks and the work arrays of a recipe."""
        self.recipe = recipe
        self._transforms = [_Transform(view, recipe) for view in recipe.views]

    def views(self, windows: Pcm) -> Views:
        """Return the tensors of some windows, by the view's name.

        Args:
            windows: shape [n, recipe.window], mono, 22,050 Hz: int16, or float in -1..1.

        Returns:
            float32, shape [n, frames, bands] each. A window's tensor is the same to the bit whatever other windows
            came with it.

        Raises:
            ValueError: for another shape or sample type, or samples that are not finite.
        """
        if windows.ndim != 2 or windows.shape[1] != self.recipe.window:
            raise ValueError(f"windows of shape {windows.shape} are not [n, {self.recipe.window}]")
        if windows.dtype != np.int16 and windows.dtype not in (np.float32, np.float64):
            raise ValueError(f"samples of type {windows.dtype} are neither int16 nor float")
        out = {name: np.empty((len(windows), *shape), np.float32) for name, shape in self.recipe.shapes.items()}
        for index, window in enumerate(windows):
            # One window at a time: a vectorised transform of a whole batch rounds a row by its place in the batch.
            signal = self._signal(window)
            for transform, tensors in zip(self._transforms, out.values(), strict=True):
                transform.write(signal, tensors[index])
        return out

    def features(self, windows: Pcm) -> Features:
        """Return the tensors of a recipe of one view, float32 [n, frames, bands]; as `views` else.

        Raises:
            ValueError: also for a recipe of several views.
        """
        return self.views(windows)[self.recipe.view.name]

    def _signal(self, window: NDArray[np.generic]) -> Features:
        """Return a window as all views take it: its level set, at the recipe's rate, shape [recipe.samples]."""
        signal = window.astype(np.float32)
        if window.dtype == np.int16:
            signal *= np.float32(1 / 32_768)
        elif not np.isfinite(signal).all():
            raise ValueError("samples are not finite")
        if self.recipe.level_dbfs is not None:
            signal *= np.float32(_gain(signal, self.recipe.level_dbfs))
        if self.recipe.sample_rate != SAMPLE_RATE:
            # One resampler a window: a window is heard by itself, whatever came before it.
            signal = soxr.resample(signal, SAMPLE_RATE, self.recipe.sample_rate, quality="HQ")
        return signal[: self.recipe.samples]


def _gain(signal: Features, level_dbfs: float) -> float:
    """Return the factor that sets a window to an RMS level, at most _MOST_GAIN; a DC offset is not sound."""
    rms = float(np.std(signal, dtype=np.float64))
    target = 10 ** (level_dbfs / 20)
    return min(target / rms, _MOST_GAIN) if rms > 0 else 1.0


class _Transform:
    """One view of a recipe: frames, spectrum, bands, scaling."""

    def __init__(self, view: View, recipe: Recipe) -> None:
        bins, half = 1 + view.n_fft // 2, view.n_fft // 2
        length = view.win_length or view.n_fft
        turns = np.arange(length) * (2 * np.pi / length)
        self._hann = np.zeros(view.n_fft, np.float32)
        before = (view.n_fft - length) // 2
        self._hann[before : before + length] = 0.5 - 0.5 * np.cos(turns)
        if view.kind == "mel":
            bank = filters.mel(
                recipe.sample_rate, view.n_fft, view.bands, view.fmin, view.fmax, htk=view.htk, norm=view.norm
            )
            self._bank = filters.Blocks(bank)
        else:
            self._bank = filters.Blocks(filters.chroma(recipe.sample_rate, view.n_fft, view.bands), view.bands)
        self._power, self._scaling = view.power, view.scaling
        self._preemphasis = None if view.preemphasis is None else np.float32(view.preemphasis)
        self._padded = np.zeros(recipe.samples + 2 * half, np.float32)
        self._signal = self._padded[half : half + recipe.samples]
        framed = np.lib.stride_tricks.sliding_window_view(self._padded, view.n_fft)
        self._frames = framed[:: view.hop_length][: view.frames]
        self._framed = np.empty((view.frames, view.n_fft), np.float32)
        self._spectrum = np.empty((view.frames, bins), np.float32)

    def write(self, signal: Features, tensor: Features) -> None:
        """Write one window's features into tensor [frames, bands]."""
        if self._preemphasis is None:
            self._signal[:] = signal
        else:
            np.multiply(signal[:-1], -self._preemphasis, out=self._signal[1:])
            self._signal[1:] += signal[1:]
            # What stood before a window is not known: librosa draws a line through its first two samples.
            self._signal[0] = 3 * signal[0] - signal[1]
        np.multiply(self._frames, self._hann, out=self._framed)
        bins = scipy.fft.rfft(self._framed, overwrite_x=True)
        parts = np.square(bins.view(np.float32), out=bins.view(np.float32))
        np.add(parts[:, 0::2], parts[:, 1::2], out=self._spectrum)
        if self._power == 1:
            np.sqrt(self._spectrum, out=self._spectrum)
        self._bank.apply(self._spectrum, tensor)
        scale(tensor, self._scaling)


def scale(tensor: Features, scaling: str) -> None:
    """Scale one window's band powers [frames, bands] in place; what each word means stands at `View.scaling`."""
    if scaling == "log10_1_10000x":
        # As musicnn itself has it. log1p differs where powers are tiny, by 6e-8 at most, and takes five times as long.
        tensor *= np.float32(10_000)
        tensor += np.float32(1)
        np.log(tensor, out=tensor)
        tensor *= _LOG_TO_LOG10
    elif scaling in _LOG_FLOORS:
        tensor += _LOG_FLOORS[scaling]
        np.log(tensor, out=tensor)
    elif scaling == "frame_max":
        largest = tensor.max(axis=1, keepdims=True)
        tensor /= np.where(largest < _TINY, np.float32(1), largest)
    else:
        np.log(np.maximum(tensor, _AMIN, out=tensor), out=tensor)
        tensor *= _LOG_TO_DB
        if scaling == "power_to_db_max":
            tensor -= tensor.max()
            np.maximum(tensor, -_TOP_DB, out=tensor)
