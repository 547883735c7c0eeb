"""Every command and option, tried once with wrong input: one line that names the thing, and no traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services import cli
from tests import wrong_files
from tests.docs.test_commands import wrong

ROOT = Path(__file__).resolve().parents[1]


def every(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every(command, (*path, name))


ALL = dict(every(cli.genre))


def run(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Run `genre` in this process, as its entry point does."""
    monkeypatch.setattr(sys, "argv", ["genre", *args])
    monkeypatch.delenv("GENRE_CONFIG", raising=False)
    code: int | str | None = 0
    try:
        cli.main()
    except SystemExit as done:
        code = done.code
    out, err = capsys.readouterr()
    return int(code or 0), out, err


def wrong_values(option: click.Parameter) -> Iterator[str]:
    """Yield values that an option refuses by its type, or a place that is not there."""
    if isinstance(option.type, click.Choice | click.types.IntParamType | click.types.FloatParamType):
        yield from ("no such thing", "")
        if isinstance(option.type, click.types.FloatParamType):
            yield from ("nan", "inf")
        if isinstance(option.type, click.IntRange | click.FloatRange):
            yield "-1" if option.type.min is not None and option.type.min >= 0 else str(10**30)
    elif option.name in ("config", "path") and "--config" in option.opts:
        yield "/nowhere/x.toml"


def cases() -> Iterator[tuple[str, ...]]:
    # Words that a line of text can't hold: nothing, a folder, bytes that are no UTF-8.
    yield from ((*["support-bundle", "--out"], out) for out in ("", "/", "/etc"))
    yield from ((*["record", "http://127.0.0.1:9/x.m3u8", "--out"], out) for out in ("", "/", "/etc"))
    for path, command in ALL.items():
        yield (*path, "--no-such-option")
        if not isinstance(command, click.Group):
            yield (*path, *["surplus"] * 9)
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                yield (*path, option.opts[-1])
                yield from ((*path, option.opts[-1], value) for value in wrong_values(option))


FREE_TEXT = """
upp
up --stream radio1
up --stream =http://x
up --stream a=http://x --stream a=http://y
up --stream a=x
up --stream a=rtsp://x/y
up --stream b/c=http://x/a.m3u8
up --music /nowhere
up --music /etc/passwd
up --stream a=http://x/a.m3u8 --port foo=1
up --stream a=http://x/a.m3u8 --port broker=99999
up --stream a=http://x/a.m3u8 --replicas fetcher=2
up --stream a=http://x/a.m3u8 --replicas inference=x
up --stream a=http://x/a.m3u8 --model nope
up --stream a=http://x/a.m3u8 --model a=b
up --music \udcff\udcfe
up --stream a=http://x/a.m3u8 --folder /proc/x
up --stream a=http://x/a.m3u8 --folder /etc/passwd
watch --broker x:y
watch --broker http://x
classify
classify /nowhere
classify --windows /etc/passwd
classify --cluster tcp://x x
classify --out /proc/x /etc
classify --model ../../etc --json /etc/passwd
classify --pictures /etc/passwd /etc/passwd
streams list
streams add a http://x/a.m3u8
streams --config /nowhere/x list
streams --config /nowhere/x add a http://x/a.m3u8
streams --config /dev/null add a http://x/a.m3u8
streams --config /etc add a http://x/a.m3u8
streams --config /etc/passwd list
check-config /etc
check-config /dev/zero
scale foo=1
scale featurizer
scale featurizer=0
package /nowhere
package /proc/self/fdinfo
record
record foo --out /nowhere/x.wav
record file:///etc/passwd --out /nowhere/x.wav
support-bundle --out /nowhere/x.tgz
broker user
broker user x --role king
broker init --host h --folder /proc/x
bench nope
train nope
train evaluate
train figures
"""


@pytest.mark.parametrize("args", [*cases(), *map(tuple, map(str.split, FREE_TEXT.strip().splitlines()))], ids=" ".join)
def test_wrong_input_is_one_line_with_a_remedy_that_exists(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(args, capsys, monkeypatch)
    assert args[0] == "doctor" or err.count("\n") == 1, err
    well_told(args, code, out, err)


def well_told(args: tuple[str, ...], code: int, out: str, err: str) -> None:
    """Check what was said of wrong input: it fails, and the last line has a remedy whose options exist."""
    told = err or out
    assert code in (1, 2), told
    assert "Traceback" not in told and "defect" not in told.lower()
    assert all(line.isprintable() for line in (out + err).splitlines()), repr(out + err)
    if args[0] != "doctor":
        assert re.match(r"genre: [^:]", err.splitlines()[-1]), err
    path = max((p for p in ALL if p == args[: len(p)]), key=len, default=())
    commands = [cli.genre, *(ALL[path[:n]] for n in range(1, len(path) + 1))]
    known = {name for each in commands for option in each.params for name in (*option.opts, *option.secondary_opts)}
    for other in re.findall(r"'genre ([^']*)'", err):
        assert wrong(other.split()) == "", err
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"'(genre|pip) [^']*'", "", err))) - {
        word for word in args if word.startswith("--")
    }
    assert named <= known, err


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return wrong_files.make(tmp_path_factory.mktemp("things"))


@pytest.mark.parametrize("line", wrong_files.TRIED.strip().splitlines())
def test_each_option_says_in_one_line_what_is_wrong_with_the_thing_it_was_given(
    line: str, things: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    faults = []
    for args in wrong_files.cases(line, things, tmp_path):
        try:
            well_told(args, *run(args, capsys, monkeypatch))
        except (AssertionError, Exception) as fault:
            faults.append((args, fault))
    assert not faults


GROUPS = [(), *(path for path, each in ALL.items() if isinstance(each, click.Group))]


@pytest.mark.parametrize("path", GROUPS, ids=" ".join)
def test_a_group_alone_shows_its_help_as_help(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run(path, capsys, monkeypatch)
    assert (code, err) == (0, "") and out.startswith("Usage: ") and "\nCommands:\n" in out


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_needs_nothing_else(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = run((*path, "--help"), capsys, monkeypatch)
    assert (code, err) == (0, "") and out.startswith("Usage: ")


def test_output_that_nobody_takes_is_one_line_or_none() -> None:
    argv = [sys.executable, "-m", "services.cli", "check-config", "--schema"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (1, "genre: output: No space left on device; look at that place\n")
    read, write = os.pipe()
    os.close(read)
    gone = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False)
    os.close(write)
    assert (gone.returncode, gone.stderr) == (1, "")
