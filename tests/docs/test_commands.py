"""No document names a command, an option or a file that is not there, and none that nothing runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from services.cli import COMMANDS, genre

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("broker/*.md"), *ROOT.glob("deploy/*/*.md"))
)
FENCED = re.compile(r"^( *)```\w*\n.*?^ *```$", re.MULTILINE | re.DOTALL)
PROGRAMS = (
    "sudo",
    "sudoedit",
    "genre",
    "make",
    "python",
    "pip",
    "mosquitto_sub",
    "systemctl",
    "journalctl",
    "apt",
    "cd",
)
FOLDERS = "broker|deploy|docs|services|tests|training|benchmarks|requirements"
ELSEWHERE = {
    # By how it begins: the test that runs it. What is fenced as `sh` is run by test_documents.py.
    "make demo": "tests/supervisor/test_up.py",
    "make test": ".ci/run",
    "make chaos": "tests/chaos/test_chaos.py",
    "make fuzz-messages": "tests/chaos/test_chaos.py",
    "make soak": "tests/chaos/soak.py",
    "make month": "tests/month/test_month.py",
    "mosquitto_sub": "tests/docs/test_documents.py",
    "python tools/locks.py": "tests/deploy/test_arm64.py",
    "python deploy/deb/build": "tests/deploy/conftest.py",
    "sudoedit": "tests/deploy/test_boot.py",
    "apt ": "tests/deploy/test_boot.py",
    "systemctl": "tests/deploy/test_boot.py",
    "journalctl": "tests/docs/test_documents.py",
    "genre doctor": "tests/doctor/test_doctor.py",
    "genre scale": "tests/deploy/test_units.py",
    "genre support-bundle": "tests/doctor/test_bundle.py",
    "genre broker": "tests/broker/test_command.py",
    "genre package": "tests/origin/test_packager.py",
    "genre classify": "tests/classify/test_command.py",
    "genre watch": "tests/monitor/test_watch.py",
    "genre up --music radio --model own": "tests/training/vgg16/test_own_genres.py",
    "genre train": "tests/training/test_evaluate.py",
    "genre bench": "tests/docs/test_commands.py",
    "pip download": "tests/training/hearing/test_heads.py",
}
# Nothing runs these: they need a Jetson, with its own Triton or a Python from elsewhere, or a GPU, which no test has.
UNTRIED = ("mkdir ", "tar ", "cd ", "../venv/bin/python repository.py", "pip install 'tensorflow[and-cuda]'")


def shown(page: str) -> Iterator[str]:
    """Yield the commands that a page shows in indented blocks, without what is said of them, and without sudo."""
    text = FENCED.sub("", (ROOT / page).read_text())
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        command = re.split(r"\s{2,}|\s+#", line)[0].strip()
        if re.match(
            r"(\$ )?(sudo |sudoedit |genre |make |python |pip |mosquitto_|systemctl|journalctl|apt |cd )", command
        ):
            yield from (part.strip().removeprefix("sudo ") for part in command.split("&&"))


def named(page: str, word: str) -> Iterator[str]:
    """Yield all that a page names as a command of one program: in blocks, in code spans."""
    text = (ROOT / page).read_text()
    for found in re.findall(rf"(?:^ *|`|&& |\| )(?:sudo )?{word} ([^`\n|&;]*)", text, re.MULTILINE):
        yield re.split(r"\s{2,}|\s+#|\s+> ", found)[0].strip()


def wrong(args: list[str]) -> str:
    """Return what is wrong with the arguments of `genre`, '' where nothing is."""
    command: click.Command = genre
    ctx = click.Context(genre)
    while isinstance(command, click.Group):
        while args and args[0].startswith("-"):
            name = args.pop(0)
            found = [each for each in command.get_params(ctx) if name in (*each.opts, *each.secondary_opts)]
            if not found and name != "--help":
                return f"no option {name}"
            if found and not getattr(found[0], "is_flag", False) and args:
                args.pop(0)
        if not args or re.fullmatch(r"[A-Z.]+|\.\.\.", args[0]):
            return ""
        inner = command.get_command(ctx, args[0])
        if inner is None:
            return f"no command {args[0]}"
        command, args = inner, args[1:]
    known = {name for param in command.get_params(ctx) for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    strange = [word for word in args if word.startswith("--") and word.split("=")[0].strip("[],.") not in known]
    return f"no option {strange[0]}" if strange else ""


@pytest.mark.parametrize("page", PAGES)
def test_every_genre_command_and_option_that_a_page_names_exists(page: str) -> None:
    problems = []
    for text in named(page, "genre"):
        try:
            args = shlex.split(text.replace("[", "").replace("]", ""))
        except ValueError:
            args = text.split()
        if args and re.fullmatch(r"[a-z-]+", args[0]) and (problem := wrong(args)):
            problems.append(f"genre {text}: {problem}")
    assert problems == []


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {text.split()[0] for text in named(page, "make") if text} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    text, folder = (ROOT / page).read_text(), (ROOT / page).parent
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (folder / target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_no_shown_command_is_left_out_of_the_tests(page: str) -> None:
    for command in shown(page):
        if command.startswith(UNTRIED):
            continue
        homes = [home for begin, home in ELSEWHERE.items() if command.startswith(begin)]
        assert homes, f"{page}: nothing runs {command!r}; fence it as sh, or name the test that does"
        assert (ROOT / homes[0]).exists(), homes[0]


def everything(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from everything(command, (*path, name))


def test_every_help_has_an_example_whose_options_exist() -> None:
    problems = []
    for path in everything(genre):
        command: click.Command = genre
        for name in path:
            assert isinstance(command, click.Group)
            found = command.get_command(click.Context(command), name)
            assert found is not None
            command = found
        text = command.get_help(click.Context(command, info_name=" ".join(("genre", *path))))
        examples = re.findall(r"(?:Example:|^ +)\s*(?:sudo )?genre (.+)$", text.split("Options:")[0], re.MULTILINE)
        if not examples:
            problems.append(f"genre {' '.join(path)}: no example")
        for example in examples:
            args = shlex.split(re.split(r"\s(?:>|&&|\|)\s", example)[0])
            if not example.startswith(path[0]) or (problem := wrong(args)):
                problems.append(f"genre {' '.join(path)}: example {example!r}: {problem or 'of another command'}")
                problem = ""
    assert problems == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_fits_a_terminal_and_starts_without_heavy_imports_failing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", name, "--help"],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "COLUMNS": "80"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_proof_that_the_guarantee_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantee.md").read_text()))
    assert len(named) > 20 and not named - {path.stem for path in ROOT.glob("tests/**/test_*.py")}
