"""`genre record` writes what is heard, and its last JSON line is a ledger that adds up."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np

from tests.fetcher.builders import decoded, ffmpeg, listen, media_playlist, needs_ffmpeg
from tests.fetcher.origin import ScriptedOrigin

pytestmark = needs_ffmpeg


def record(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Run the command; return its exit code, the JSON lines, and what it said on stderr."""
    command = [sys.executable, "-m", "services.cli", "record", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def samples_of(path: Path) -> tuple[int, np.ndarray[Any, Any]]:
    with wave.open(str(path)) as file:
        raw = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return file.getframerate(), raw.reshape(-1, file.getnchannels())


def names_in(folder: Path) -> list[str]:
    return [line for line in (folder / "list.m3u8").read_text().splitlines() if line and line[0] != "#"]


def test_22050_mono_is_written_and_the_ledger_adds_up(made: Any, origin: ScriptedOrigin, tmp_path: Path) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    names = names_in(folder)
    origin.put("/gap.m3u8", media_playlist([names[0], "gone.ts", names[2]]))
    code, lines, _ = record(origin.url("/gap.m3u8"), "--out", tmp_path / "x.wav")
    ledger = lines[-1]["ledger"]
    rate, samples = samples_of(tmp_path / "x.wav")
    heard = listen(origin.url("/gap.m3u8"))
    assert code == 0 and rate == 22_050 and np.array_equal(samples[:, 0], heard.pcm())
    assert ledger["adds_up"] and ledger["timeline"] == ledger["heard"] + ledger["gap"]
    assert ledger["causes"] == {"http-404": heard.gaps[0].samples} and ledger["epochs"] == 2


def test_native_is_what_ffmpeg_decodes_and_another_format_is_another_file(
    made: Any, origin: ScriptedOrigin, tmp_path: Path
) -> None:
    origin.serve(made("ts-aac"), "/a/")
    origin.serve(made("ts-mp3", rate=48_000), "/b/")
    a, b = names_in(made("ts-aac")), names_in(made("ts-mp3", rate=48_000))
    names = [f"a/{name}" for name in a] + [f"b/{name}" for name in b]
    origin.put("/list.m3u8", media_playlist(names, before={len(a): "#EXT-X-DISCONTINUITY"}))
    code, lines, _ = record(origin.url("/list.m3u8"), "--out", tmp_path / "x.wav", "--native")
    assert code == 0 and [Path(file).name for file in lines[-1]["files"]] == ["x.wav", "x.2.wav"]
    for file, folder, rate in (("x.wav", made("ts-aac"), 44_100), ("x.2.wav", made("ts-mp3", rate=48_000), 48_000)):
        assert samples_of(tmp_path / file)[0] == rate
        difference = samples_of(tmp_path / file)[1].astype(int) - decoded(folder / "list.m3u8")
        assert np.abs(difference).max() <= 1


def test_seconds_ends_the_recording(made: Any, origin: ScriptedOrigin, tmp_path: Path) -> None:
    origin.serve(made("ts-aac"))
    code, lines, _ = record(origin.url("/list.m3u8"), "--out", tmp_path / "x.wav", "--seconds", "3")
    assert code == 0 and 3 * 22_050 <= lines[-1]["ledger"]["timeline"] < 6 * 22_050


def test_bad_input_is_one_line_and_an_exit_code(made: Any, origin: ScriptedOrigin, tmp_path: Path) -> None:
    origin.serve(made("ts-aac"))
    cases = [
        (["ftp://h.example/x", "--out", tmp_path / "x.wav"], 2, "http"),
        ([origin.url("/nothing.m3u8"), "--out", tmp_path / "x.wav"], 1, "404"),
        ([origin.url("/list.m3u8"), "--out", tmp_path / "absent" / "x.wav"], 1, "can't be written"),
        ([origin.url("/list.m3u8"), "--out", tmp_path / "x.wav", "--seconds", "-1"], 2, "seconds"),
    ]
    for arguments, expected, says in cases:
        code, _, error = record(*arguments)
        assert code == expected and says in error and len(error.strip().splitlines()) == 1
        assert not (tmp_path / "x.wav").exists(), "a stream of which nothing was heard leaves no file"


def test_a_person_reads_seconds_causes_and_how_loud_it_was(made: Any, origin: ScriptedOrigin, tmp_path: Path) -> None:
    folder = made("ts-aac")
    origin.serve(folder)
    names = names_in(folder)
    origin.put("/gap.m3u8", media_playlist([names[0], "gone.ts", names[2]]))
    silence = ["-f", "lavfi", "-i", "anullsrc=r=44100", "-t", "2", "-c:a", "aac", "-f", "mpegts", "-"]
    origin.put("/silence.ts", ffmpeg(*silence))
    origin.put("/silent.m3u8", media_playlist(["silence.ts"]))
    said = {}
    for path in ("/gap.m3u8", "/silent.m3u8"):
        command = [sys.executable, "-m", "services.cli", "record", origin.url(path), "--out", str(tmp_path / "x.wav")]
        said[path] = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "0.000 s  epoch 0 begins: start" in said["/gap.m3u8"]
    assert re.search(r"\n +2\.0\d\d s  gap of 1\.9\d\d s, http-404: segment 1: ", said["/gap.m3u8"])
    assert re.search(r"missing 1\.9\d\d s: http-404", said["/gap.m3u8"]) and "dBFS; silence 0.0 of" in said["/gap.m3u8"]
    assert "all samples are zero; silence 2.0 of 2.0 s" in said["/silent.m3u8"]
