"""Features equal librosa's, do not depend on the batch, and refuse what is not a window."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import librosa
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from services.contract.recipe import Recipe, View, load_recipe, recipe_ids
from services.contract.windows import cut
from services.featurizer import filters
from services.featurizer.features import Featurizer, Views
from tests.shared_data import shared

TWO_VIEWS = "mel96-mel115"
MAX_DB = 1e-3
"""Promised on real audio; the largest difference over 730 windows of 421 real clips is 7.0e-4 dB."""
MAX_DB_SYNTHETIC = 5e-3
"""Bands 80 dB below a pure sweep show the rounding of float32; librosa's transform works in float64 inside."""


def oracle(recipe: Recipe, window: NDArray[np.int16]) -> Views:
    """What a person would write with librosa, by view."""
    y = window.astype(np.float64) / 32_768
    if recipe.level_dbfs is not None and y.std():
        y *= min(10 ** (recipe.level_dbfs / 20) / y.std(), 1_000)
    y = y.astype(np.float32)
    rate = recipe.sample_rate
    if rate != 22_050:
        y = librosa.resample(y, orig_sr=22_050, target_sr=rate, res_type="soxr_hq")[: recipe.samples]
    return {view.name: _oracle(view, rate, y) for view in recipe.views}


def _oracle(view: View, rate: int, y: NDArray[np.float32]) -> NDArray[np.float32]:
    if view.kind == "chroma":
        chroma = librosa.feature.chroma_stft(y=y, sr=rate, n_fft=view.n_fft, hop_length=view.hop_length, tuning=0.0)
        return chroma[:, : view.frames].T
    if view.preemphasis is not None:
        y = librosa.effects.preemphasis(y, coef=view.preemphasis)
    bands = librosa.feature.melspectrogram(
        y=y, sr=rate, n_fft=view.n_fft, hop_length=view.hop_length, win_length=view.win_length, power=view.power,
        n_mels=view.bands, fmin=view.fmin, fmax=view.fmax, htk=view.htk, norm=view.norm,
    )[:, : view.frames].T  # fmt: skip
    if view.scaling == "power_to_db_max":
        return librosa.power_to_db(bands, ref=np.max)
    floors = {"log_0.001": 0.001, "log_1e-5": 1e-5}
    return np.log(bands + floors[view.scaling]) if view.scaling in floors else np.log10(1 + 10_000 * bands)


def synthetic() -> NDArray[np.int16]:
    """Windows that break sloppy arithmetic: noise, silence, one step, clipping, a pure tone, a sweep."""
    rng = np.random.default_rng(7)
    t = np.arange(66_000) / 22_050
    sweep = librosa.chirp(fmin=30, fmax=11_000, sr=22_050, length=66_000)
    rows = [
        rng.normal(0, 0.1, 66_000),
        np.zeros(66_000),
        np.where(np.arange(66_000) == 33_000, 1.0, 0.0),
        np.clip(rng.normal(0, 2, 66_000), -1, 1),
        0.5 * np.sin(2 * np.pi * 440 * t) + rng.normal(0, 1e-3, 66_000),
        0.9 * sweep + rng.normal(0, 1e-3, 66_000),
    ]
    return np.stack([np.round(np.clip(row, -1, 1) * 32_767) for row in rows]).astype(np.int16)


def real(clips: int = 20) -> NDArray[np.int16]:
    """Windows of real music, a few of each genre."""
    files = sorted(shared("data", "gtzan-subset").glob("*/*.flac"))
    chosen = [files[index] for index in np.linspace(0, len(files) - 1, clips).astype(int)]
    return np.concatenate([cut(soundfile.read(path, dtype="int16")[0])[:3] for path in chosen])


@pytest.mark.parametrize("recipe_id", recipe_ids())
@pytest.mark.parametrize(("source", "limit_db"), [(real, MAX_DB), (synthetic, MAX_DB_SYNTHETIC)])
def test_features_equal_librosas(recipe_id: str, source: Callable[[], NDArray[np.int16]], limit_db: float) -> None:
    recipe, windows = load_recipe(recipe_id), source()
    limits = {"power_to_db_max": limit_db, "log_0.001": 2e-3, "log_1e-5": 2e-2}
    # The logarithm magnifies the rounding of tiny values, the more the lower its floor.
    for window, *got in zip(windows, *Featurizer(recipe).views(windows).values(), strict=True):
        want = oracle(recipe, window)
        for view, tensor in zip(recipe.views, got, strict=True):
            assert np.abs(tensor - want[view.name]).max() <= limits.get(view.scaling, 1e-4), view.name


def test_the_level_of_a_window_says_nothing_where_the_recipe_sets_it() -> None:
    window, featurizer = synthetic()[-2:].astype(np.float32) / 32_768, Featurizer(load_recipe(TWO_VIEWS))
    expected = featurizer.views(window)
    for gain_db in (-40, -20, 20):
        for name, view in featurizer.views(window * 10 ** (gain_db / 20)).items():
            assert np.abs(view - expected[name]).max() <= 1e-3


def test_what_is_nearly_silent_is_not_blown_up_without_bound() -> None:
    quiet, featurizer = np.full((1, 66_000), 1e-9, np.float32), Featurizer(load_recipe(TWO_VIEWS))
    quiet[0, ::2] = -1e-9
    for view in featurizer.views(quiet).values():
        assert np.isfinite(view).all() and view.max() <= 0.01


def test_the_one_tensor_of_a_recipe_with_several_views_does_not_exist() -> None:
    with pytest.raises(ValueError, match=f"recipe {TWO_VIEWS} has 2 views, not one"):
        Featurizer(load_recipe(TWO_VIEWS)).features(synthetic())


@pytest.mark.parametrize("recipe_id", recipe_ids())
def test_a_windows_tensor_is_the_same_to_the_bit_in_any_batch(recipe_id: str) -> None:
    windows, featurizer = synthetic(), Featurizer(load_recipe(recipe_id))
    whole = featurizer.views(windows)
    alone = [featurizer.views(window[None]) for window in windows]
    backwards = featurizer.views(windows[::-1])
    fresh = Featurizer(load_recipe(recipe_id)).views(windows)
    for name, view in whole.items():
        for other in (np.concatenate([each[name] for each in alone]), backwards[name][::-1], fresh[name]):
            assert view.tobytes() == np.ascontiguousarray(other).tobytes()


@pytest.mark.parametrize("recipe_id", recipe_ids())
def test_int16_and_float_samples_give_the_same_tensor(recipe_id: str) -> None:
    windows, featurizer = synthetic(), Featurizer(load_recipe(recipe_id))
    as_float = featurizer.views(windows / 32_768)
    for name, view in featurizer.views(windows).items():
        assert np.array_equal(view, as_float[name])


def test_the_papers_shape_is_129_frames_of_128_bands() -> None:
    assert Featurizer(load_recipe("vgg16")).features(synthetic()).shape == (6, 129, 128)


def test_level_does_not_change_the_papers_features() -> None:
    window, featurizer = synthetic()[:1].astype(np.float32) / 32_768, Featurizer(load_recipe("vgg16"))
    assert np.abs(featurizer.features(window) - featurizer.features(window * 0.25)).max() <= MAX_DB


@pytest.mark.parametrize("recipe_id", recipe_ids())
def test_silence_gives_finite_numbers(recipe_id: str) -> None:
    silence = np.zeros((1, 66_000), np.int16)
    for view in Featurizer(load_recipe(recipe_id)).views(silence).values():
        assert np.isfinite(view).all()


def test_no_windows_give_an_empty_tensor() -> None:
    assert Featurizer(load_recipe("vgg16")).features(np.empty((0, 66_000), np.int16)).shape == (0, 129, 128)


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        (np.zeros(66_000, np.int16), "shape"),
        (np.zeros((1, 65_999), np.int16), "shape"),
        (np.zeros((1, 66_000), np.int32), "int32"),
        (np.full((1, 66_000), np.nan, np.float32), "finite"),
        (np.full((1, 66_000), np.inf, np.float64), "finite"),
    ],
)
def test_what_is_not_a_window_is_refused(windows: NDArray[np.generic], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Featurizer(load_recipe("vgg16")).features(windows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sample_rate", "n_fft", "n_mels", "fmin", "fmax"),
    [
        (22_050, 1024, 128, 0, 11_025),
        (16_000, 512, 96, 0, 8_000),
        (44_100, 2048, 40, 300, 16_000),
        (8_000, 256, 80, 0, 4_000),
    ],
)
@pytest.mark.parametrize(("htk", "norm"), [(False, "slaney"), (True, "slaney"), (True, None), (False, None)])
@pytest.mark.filterwarnings("ignore:Empty filters")
def test_mel_bank_equals_librosas(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float, htk: bool, norm: Literal["slaney"] | None
) -> None:
    want = librosa.filters.mel(sr=sample_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, htk=htk, norm=norm)
    got = filters.mel(sample_rate, n_fft, n_mels, fmin, fmax, htk=htk, norm=norm)
    assert np.abs(got.T - want).max() <= 3e-7 * want.max()
    spectrum = np.random.default_rng(1).random((5, 1 + n_fft // 2), np.float32)
    out = np.empty((5, n_mels), np.float32)
    filters.Blocks(got).apply(spectrum, out)
    assert np.allclose(out, spectrum @ got, rtol=1e-5)


def test_chroma_bank_equals_librosas() -> None:
    for rate, n_fft in ((22_050, 2048), (16_000, 4096)):
        want = librosa.filters.chroma(sr=rate, n_fft=n_fft, tuning=0.0)
        assert np.abs(filters.chroma(rate, n_fft, 12).T - want).max() <= 1e-6


def test_importing_the_featurizer_stays_light() -> None:
    code = (
        "import sys, services.featurizer.features; "
        "print([m for m in ('librosa', 'scipy.signal', 'scipy.sparse', 'tensorflow', 'paho') if m in sys.modules])"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
