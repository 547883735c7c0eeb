"""Calls of systemctl, for the commands that change what an installed system runs. Start at `systemctl`."""

from __future__ import annotations

import shutil
import subprocess

from services.errors import GenreError

TIMEOUT_S = 120


def systemctl(*arguments: str) -> str:
    """Run systemctl and return what it printed.

    Raises:
        GenreError: it is not here, or it failed; with its own words.
    """
    program = shutil.which("systemctl")
    if program is None:
        raise GenreError("systemctl", "is not on this machine", "this command is for systems that systemd runs")
    try:
        done = subprocess.run(
            [program, "--no-pager", *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise GenreError("systemctl", f"{' '.join(arguments)} took over {TIMEOUT_S} s", "see journalctl -xe") from None
    if done.returncode != 0 and arguments[0].startswith("list-") and not done.stdout and not done.stderr:
        return ""  # nothing matches: systemd 252 says so by the exit code alone
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        remedy = "run it as root; see journalctl -xe"
        if "not been booted with systemd" in words[0]:
            remedy = "this command is for systems that systemd runs; elsewhere 'genre up' starts everything"
        raise GenreError("systemctl", f"{' '.join(arguments)} failed: {words[0]}", remedy)
    return done.stdout
