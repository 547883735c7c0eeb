"""Hostile bytes never crash, hang or blow up the fetcher; here a short run, `make fuzz` is the long one.

Promised: a playlist is values or a PlaylistError; a segment is heard, a gap or a DivergedError; nothing else, ever.
"""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import fetcher_fuzz
from benchmarks.fetcher_fuzz import hear_hostile, parse_hostile
from benchmarks.fetcher_fuzz_inputs import mutated
from services.fetcher.hls.encryption import DecryptionError, decrypt
from services.fetcher.media import id3, mp4
from services.fetcher.media.segment_media import open_segment
from services.fetcher.media.sniff import MediaError
from tests.fetcher.builders import needs_ffmpeg

LINES = st.sampled_from(
    """#EXTM3U|#EXTINF:|#EXTINF:1e308,|#EXTINF:-1,x|#EXT-X-KEY:METHOD=|#EXT-X-KEY:METHOD=AES-128,URI="|#EXT-X-MAP:URI="i"|
#EXT-X-BYTERANGE:1@|#EXT-X-BYTERANGE:9999999999999999|#EXT-X-MEDIA-SEQUENCE:-9|#EXT-X-DISCONTINUITY|#EXT-X-ENDLIST|
#EXT-X-STREAM-INF:BANDWIDTH=x|#EXT-X-STREAM-INF:|#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a"|#EXT-X-SKIP:SKIPPED-SEGMENTS=3|
#EXT-X-DEFINE:NAME="a",VALUE="{$a}{$a}"|{$a}|#EXT-X-PROGRAM-DATE-TIME:0000-00-00T00:00:00Z|a.ts|http://[|//|
#EXT-X-PROGRAM-DATE-TIME:9999-12-31T23:59:59Z|#EXTINF:86400,|#EXT-X-START:TIME-OFFSET=1|#EXT-X-TARGETDURATION:0""".replace(
        "\n", ""
    ).split("|")
)
quick = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(st.one_of(LINES, st.text(max_size=40)), max_size=30))
def test_any_lines_are_a_playlist_or_a_playlist_error(lines: list[str]) -> None:
    parse_hostile("#EXTM3U\n" + "\n".join(lines))


@quick
@given(st.binary(max_size=300))
def test_any_bytes_after_id3_are_tags_or_nothing(data: bytes) -> None:
    tags, start = id3.strip(b"ID3" + data)
    assert 0 <= start <= len(data) + 3 and len(tags.title) <= 500
    id3.read(b"ID3\x04\0\0\0\0\x02\x00" + data)
    id3.from_extinf(data.decode("latin-1"))


@quick
@given(st.binary(max_size=300))
def test_any_boxes_are_walked_to_their_end(data: bytes) -> None:
    mp4.Init.read(b"\0\0\0\x80moov" + data)
    list(mp4.id3_events(b"\0\0\0\x80emsg" + data))


@quick
@given(st.binary(max_size=80), st.binary(max_size=33))
def test_any_key_and_data_decrypt_or_say_why_not(data: bytes, key: bytes) -> None:
    with contextlib.suppress(DecryptionError):
        assert len(decrypt(data, key, bytes(16))) < len(data)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["ts-aac", "ts-mp3", "ts-ac3", "fmp4-aac", "packed-aac", "packed-mp3"])
def test_damaged_segments_are_heard_or_become_gaps(name: str, made: Any) -> None:
    folder = made(name)
    names = [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]
    good = [(folder / part).read_bytes() for part in names[:3]]
    init = (folder / "init.mp4").read_bytes() if (folder / "init.mp4").exists() else None
    chance = random.Random(name)
    for _ in range(15):
        hear_hostile([mutated(part, chance) for part in good], mutated(init, chance) if init else None)


@needs_ffmpeg
@pytest.mark.parametrize(
    ("name", "table", "fields"),
    [("fmp4-aac", b"trun", {4: 0x0FFF_FFFF}), ("mp4", b"stsz", {4: 1, 8: 0x0FFF_FFFF})],
)
def test_a_table_that_announces_more_samples_than_bytes_is_refused_before_memory_is_made(
    name: str, table: bytes, fields: dict[int, int], made: Any, tmp_path: Path
) -> None:
    """libav alone would take up to 100 GiB for it."""
    if name == "mp4":
        command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", str(tmp_path / "x.mp4")]
        subprocess.run(command, check=True)
        data = bytearray((tmp_path / "x.mp4").read_bytes())
    else:
        data = bytearray((made(name) / "init.mp4").read_bytes() + (made(name) / "list0.m4s").read_bytes())
    with open_segment(bytes(data)) as media:
        assert sum(1 for _ in media.batches()) > 40
    for at, value in fields.items():
        struct.pack_into(">I", data, data.find(table) + 4 + at, value)
    with pytest.raises(MediaError, match="samples in"):
        open_segment(bytes(data))


def test_the_fuzzers_watchdog_tells_a_crash_in_c_and_a_hang_from_an_orderly_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fetcher_fuzz.watched("playlists", 5, 50, 1)
    assert (done.inputs, done.failures) == (50, []) and 0 < done.peak_mib < 1024
    (tmp_path / "state").write_bytes(bytes(40))

    def end_of(code: str) -> str:
        process = subprocess.Popen([sys.executable, "-c", code])
        return fetcher_fuzz.wait_for_end(process, tmp_path / "state")

    assert "signal 11" in end_of("import ctypes; ctypes.string_at(0)") and "exception" in end_of("1 / 0")
    monkeypatch.setattr(fetcher_fuzz, "LONGEST_S", 0.5)
    assert "longer than" in end_of("while True: pass")
    monkeypatch.setattr(fetcher_fuzz, "LONGEST_S", 1e9)
    monkeypatch.setattr(fetcher_fuzz, "WAITING_S", 0.1)
    assert "does nothing" in end_of("import threading; threading.Event().wait()")
