"""PCM windows to tensors: the one place in the project where a model's input is computed.

No MQTT, no files, no librosa: services, training and `genre classify` all call this, so a model never sees other
numbers in training than in service. Start at `Featurizer`; librosa is the oracle it is tested against.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
import soxr
from numpy.typing import NDArray

from services.featurizer import filters
from services.featurizer.recipe import PCM_RATE, Recipe

Pcm = NDArray[np.int16] | NDArray[np.float32] | NDArray[np.float64]
Features = NDArray[np.float32]

_AMIN = np.float32(1e-10)
"""Floor of librosa.power_to_db, in power."""
_TOP_DB = np.float32(80.0)
_LOG_TO_DB = np.float32(10 / np.log(10))
_LOG_TO_LOG10 = np.float32(1 / np.log(10))
_TINY = np.finfo(np.float32).tiny


class Featurizer:
    """Features of one recipe.

    Keeps its filter bank and work arrays, so make one and use it for all windows; not for use by two threads at once.

    Example:
        >>> from services.featurizer.recipe import load_recipe
        >>> Featurizer(load_recipe("vgg16")).features(np.zeros((2, 66_000), np.int16)).shape
        (2, 129, 128)
    """

    def __init__(self, recipe: Recipe) -> None:
        """Build the filter bank and the work arrays of a recipe."""
        self.recipe = recipe
        bins, half = 1 + recipe.n_fft // 2, recipe.n_fft // 2
        turns = np.arange(recipe.n_fft) * (2 * np.pi / recipe.n_fft)
        self._hann = (0.5 - 0.5 * np.cos(turns)).astype(np.float32)
        if recipe.kind == "mel":
            bank = filters.mel(recipe.sample_rate, recipe.n_fft, recipe.bands, recipe.fmin, recipe.fmax)
            self._bank = filters.Blocks(bank)
        else:
            bank = filters.chroma(recipe.sample_rate, recipe.n_fft, recipe.bands)
            self._bank = filters.Blocks(bank, recipe.bands)
        self._padded = np.zeros(recipe.samples + 2 * half, np.float32)
        self._signal = self._padded[half : half + recipe.samples]
        view = np.lib.stride_tricks.sliding_window_view(self._padded, recipe.n_fft)
        self._view = view[:: recipe.hop_length][: recipe.frames]
        self._framed = np.empty((recipe.frames, recipe.n_fft), np.float32)
        self._spectrum = np.empty((recipe.frames, bins), np.float32)

    def features(self, windows: Pcm) -> Features:
        """Return the tensors of some windows.

        Args:
            windows: shape [n, recipe.window], mono, 22,050 Hz: int16, or float in -1..1.

        Returns:
            float32, shape [n, recipe.frames, recipe.bands]. A window's tensor is the same to the bit whatever other
            windows came with it.

        Raises:
            ValueError: for another shape or sample type, or samples that are not finite.
        """
        if windows.ndim != 2 or windows.shape[1] != self.recipe.window:
            raise ValueError(f"windows of shape {windows.shape} are not [n, {self.recipe.window}]")
        if windows.dtype != np.int16 and windows.dtype not in (np.float32, np.float64):
            raise ValueError(f"samples of type {windows.dtype} are neither int16 nor float")
        out = np.empty((windows.shape[0], *self.recipe.shape), np.float32)
        for window, tensor in zip(windows, out, strict=True):
            # One window at a time: a vectorised transform of a whole batch rounds a row by its place in the batch.
            self._one(window, tensor)
        return out

    def _one(self, window: NDArray[np.generic], tensor: Features) -> None:
        """Write one window's features into tensor [frames, bands]."""
        recipe = self.recipe
        signal = window.astype(np.float32)
        if window.dtype == np.int16:
            signal *= np.float32(1 / 32_768)
        elif not np.isfinite(signal).all():
            raise ValueError("samples are not finite")
        if recipe.sample_rate != PCM_RATE:
            # One resampler a window: a window is heard by itself, whatever came before it.
            signal = soxr.resample(signal, PCM_RATE, recipe.sample_rate, quality="HQ")
        self._signal[:] = signal[: recipe.samples]
        np.multiply(self._view, self._hann, out=self._framed)
        bins = scipy.fft.rfft(self._framed, overwrite_x=True)
        parts = np.square(bins.view(np.float32), out=bins.view(np.float32))
        np.add(parts[:, 0::2], parts[:, 1::2], out=self._spectrum)
        if recipe.power == 1:
            np.sqrt(self._spectrum, out=self._spectrum)
        self._bank.apply(self._spectrum, tensor)
        scale(tensor, recipe.scaling)


def scale(tensor: Features, scaling: str) -> None:
    """Scale one window's band powers [frames, bands] in place; what each word means stands at `Recipe.scaling`."""
    if scaling == "log10_1_10000x":
        # As musicnn itself has it. log1p differs where powers are tiny, by 6e-8 at most, and takes five times as long.
        tensor *= np.float32(10_000)
        tensor += np.float32(1)
        np.log(tensor, out=tensor)
        tensor *= _LOG_TO_LOG10
    elif scaling == "frame_max":
        largest = tensor.max(axis=1, keepdims=True)
        tensor /= np.where(largest < _TINY, np.float32(1), largest)
    else:
        np.log(np.maximum(tensor, _AMIN, out=tensor), out=tensor)
        tensor *= _LOG_TO_DB
        if scaling == "power_to_db_max":
            tensor -= tensor.max()
            np.maximum(tensor, -_TOP_DB, out=tensor)
