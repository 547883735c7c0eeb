from __future__ import annotations

import os
import pty
import subprocess
import sys

CODE = (
    "from services.classify.catalogue.progress import Progress\n"
    "with Progress() as progress:\n"
    "    progress.show(3, 10, 1, 2)\n"
    "    progress.say('no \\x1b[31mworkers')\n"
)


def test_a_terminal_shows_how_far_it_is_and_a_pipe_only_what_matters() -> None:
    master, slave = pty.openpty()
    running = subprocess.Popen([sys.executable, "-c", CODE], stderr=slave)
    os.close(slave)
    shown = b""
    try:
        while block := os.read(master, 4096):
            shown += block
    except OSError:  # how a terminal says that nobody is left on it
        pass
    os.close(master)
    assert running.wait(30) == 0
    assert b"3/10" in shown and b"1 not classified, 2 workers" in shown and b"no  [31mworkers" in shown

    piped = subprocess.run([sys.executable, "-c", CODE], capture_output=True, timeout=30)
    assert piped.stderr == b"genre: no  [31mworkers\n" and piped.stdout == b""
