"""What is heard is what ffmpeg decodes of the same media: every shared stream, every format made here.

The oracle is the system's ffmpeg (5.1 on Debian 12), the decoder FFmpeg 8: the two round a float now and then
differently, so one unit of 16 bits of difference is allowed, in samples; the number of samples must be equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr
from numpy.typing import NDArray

from services.fetcher.media.decoder import to_int16
from tests.fetcher.builders import FORMATS, Listened, decoded, listener, media_playlist, needs_ffmpeg
from tests.fetcher.origin import ScriptedOrigin
from tests.shared_data import shared

pytestmark = needs_ffmpeg

SHARED_STREAMS = [
    "hls-ts-aac/playlist.m3u8",
    "hls-raw-aac/manifest.m3u8",
    "hls-raw-mp3/playlist.m3u8",
    "hls-raw-mp3/playlist-no-codecs.m3u8",
    "hls-ts-ac3/prog_index.m3u8",
    "hls-ts-muxed-aac-h264/playlist.m3u8",
    "hls-interstitial/ad1.m3u8",
]


def native_of(url: str, **changes: Any) -> tuple[Listened, dict[int, NDArray[np.int16]]]:
    """Listen to the end; return what was heard and each epoch's native samples, int16, (samples, channels)."""
    parts: dict[int, list[NDArray[np.float32]]] = {}
    one = listener(
        url,
        native=lambda epoch, rate, samples: parts.setdefault(epoch, []).append(np.stack(samples)),
        **{"read_timeout_s": 60.0, "connect_timeout_s": 60.0, **changes},
    )
    heard = Listened(list(one.listen()))
    one.close()
    heard.check_ledger()
    return heard, {epoch: to_int16(np.concatenate(samples, axis=1).T) for epoch, samples in parts.items()}


def assert_same(ours: NDArray[np.int16], oracle: NDArray[np.int16], rounded: float = 1e-3) -> None:
    """Check that only rounding differs: by one unit, in at most this share of the samples."""
    assert ours.shape == oracle.shape
    difference = np.abs(ours.astype(np.int32) - oracle)
    assert difference.max(initial=0) <= 1
    assert np.count_nonzero(difference) <= rounded * difference.size


@pytest.mark.parametrize("path", SHARED_STREAMS)
def test_a_shared_stream_is_heard_as_ffmpeg_decodes_it(path: str, origin: ScriptedOrigin) -> None:
    folder = shared("data", "hls-streams", path).parent
    origin.serve(folder)
    url = origin.url("/" + Path(path).name)
    heard, native = native_of(url)
    options = ("-cons_noisegen", "1") if "ac3" in path else ()
    assert_same(native[0], decoded(folder / Path(path).name, *options))
    assert heard.reasons == ["start"] and not heard.gaps
    assert heard.ended is not None and heard.ended.end_sample == len(heard.pcm())
    assert origin.connections == 1


@pytest.mark.parametrize("name", ["audio.ts", "id3-metadata.aac", "id3-metadata.ts", "hls-interstitial/ad.ts"])
def test_a_shared_file_as_one_segment_is_heard_as_ffmpeg_decodes_it(name: str, origin: ScriptedOrigin) -> None:
    """id3-metadata.ts is HE-AAC v2, whose second half is computed from the first: two roundings instead of one."""
    file = shared("data", "hls-streams", name)
    origin.put("/one", file.read_bytes())
    origin.put("/list.m3u8", media_playlist(["one"]))
    heard, native = native_of(origin.url("/list.m3u8"))
    assert_same(np.concatenate(list(native.values())), decoded(file), 2e-3 if name == "id3-metadata.ts" else 1e-3)
    assert heard.reasons == ["start"] and not heard.gaps


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_heard_as_ffmpeg_decodes_it(name: str, made: Any, origin: ScriptedOrigin) -> None:
    folder = made(name)
    origin.serve(folder)
    heard, native = native_of(origin.url("/list.m3u8"))
    options = ("-cons_noisegen", "1") if "ac3" in name else ()
    assert_same(native[0], decoded(folder / "list.m3u8", *options))
    assert heard.reasons == ["start"]
    # ffmpeg's muxer ends FLAC with a segment that holds no sample: a gap as long as its EXTINF, and rightly so.
    assert [gap.cause for gap in heard.gaps] == (["undecodable"] if name == "fmp4-flac" else [])
    assert abs(len(heard.pcm()) - 8 * 22_050) < 2_500
    assert origin.connections == 1


def test_22050_mono_is_the_resampled_mean_of_the_channels(made: Any, origin: ScriptedOrigin) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    heard, native = native_of(origin.url("/list.m3u8"))
    mean = native[0].astype(np.float64).mean(axis=1)
    at_once = soxr.resample(mean, 44_100, 22_050, quality="VHQ")
    assert len(heard.pcm()) == len(at_once)
    assert np.abs(heard.pcm() - at_once).max() <= 2
