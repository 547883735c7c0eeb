"""Child processes under one roof: started, watched, restarted with back-off, and all gone at the end.

Each child writes to its own log file; it dies with the supervisor even if that is killed (PR_SET_PDEATHSIG). Not here:
what the children are (`children.py`). Start at `ProcessGroup`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.errors import GenreError
from services.supervisor import log_files
from services.supervisor.watchdog import Watchdog

log = logging.getLogger(__name__)

BACKOFF_MIN_S, BACKOFF_MAX_S = 0.5, 15.0
STEADY_S = 30.0
"""A child that lived this long has proven itself: its next restart is quick again."""
ASK_EVERY_S, SUSPENDED_S = 3.0, 30.0
BOUND_EVERY_S = 5.0
OURS_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""What systemd says to the supervisor alone: a child that inherits it speaks to systemd in the supervisor's name, or
takes its own watchdog for another's."""
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM for a moment: one that came between a fork and its record would leave an orphan."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda n, frame: came.append(n)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


def _die_with_parent() -> None:
    """Ask Linux for SIGTERM when the supervisor is gone, and leave its terminal's Ctrl-C to it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.setpgid(0, 0)


@dataclass
class Child:
    """One process and how to start it again.

    Attributes:
        env: its environment; None inherits the supervisor's. What systemd told the supervisor is taken out of either.
        refusals: how often in a row it ended by itself, with an error and at once; being killed does not count.
        stop_s: how long it may take to end before it is killed.
        before: run before each start, e.g. to sweep what a killed one left.
        watchdog_s: kill it where it was ready and then gave no sign of life for this long; None for a child that
            gives none.
        answers: for a child that gives no sign by itself: whether it answers now; asked every few seconds, and killed
            where it has not for answer_s, its start included.
    """

    name: str
    argv: Sequence[str]
    log_file: Path
    env: Mapping[str, str] | None = None
    stop_s: float = 8.0
    before: Callable[[], None] | None = None
    watchdog_s: float | None = None
    answers: Callable[[], bool] | None = None
    answer_s: float = 60.0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0
    refusals: int = 0
    hangs: int = 0
    _watchdog: Watchdog | None = None
    _answered: float = 0.0
    _asked: float = 0.0
    _due: float = 0.0
    _pause: float = BACKOFF_MIN_S

    def start(self) -> None:
        """Start the process.

        Raises:
            GenreError: where its program can't be run.
        """
        if self.before is not None:
            self.before()
        inherited = os.environ if self.env is None else self.env
        env = {name: value for name, value in inherited.items() if name not in OURS_ALONE}
        if self.watchdog_s is not None:
            self._watchdog = self._watchdog or Watchdog(self.watchdog_s)
            self._watchdog.reset()
            env |= self._watchdog.environment
        with self.log_file.open("ab") as out, uninterrupted():
            try:
                self.process = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=env,
                    preexec_fn=_die_with_parent,
                )
            except OSError as error:
                raise GenreError(
                    self.argv[0], f"can't be started ({error.strerror})", "install it; see README"
                ) from error
        self.started_at = self._answered = time.monotonic()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def last_words(self) -> str:
        """Return the last line of its log."""
        try:
            lines = self.log_file.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return lines[-1].strip()[:300] if lines else ""

    def supervise(self) -> None:
        """Restart it if it died and its pause is over; end it if it hangs."""
        if self.alive:
            self.check()
            return
        now = time.monotonic()
        if self._due == 0.0:
            code = self.process.returncode if self.process else None
            steady = now - self.started_at > STEADY_S
            self.refusals = self.refusals + 1 if code is not None and code > 0 and not steady else 0
            if steady:
                self._pause = BACKOFF_MIN_S
            self._due = now + self._pause
            log.warning(
                "%s ended (%s); starting it again in %.1f s: %s", self.name, code, self._pause, self.last_words()
            )
            self._pause = min(2 * self._pause, BACKOFF_MAX_S)
        elif now >= self._due:
            self._due = 0.0
            self.restarts += 1
            self.start()

    def check(self) -> None:
        """Kill it where it runs and hangs."""
        silent = self._watchdog is not None and self._watchdog.hangs()
        now = time.monotonic()
        if self.answers is not None and now - self._asked > ASK_EVERY_S:
            if now - self._asked > SUSPENDED_S or self.answers():
                self._answered = time.monotonic()
            silent = silent or now - self._answered > self.answer_s
            self._asked = time.monotonic()
        if silent and self.alive:
            log.warning("%s gives no sign of life; killed", self.name)
            self.hangs += 1
            self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal to its whole group, where it still runs."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class ProcessGroup:
    """All children of one `genre up`."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._bounded_at = 0.0

    def add(self, child: Child) -> Child:
        """Start a child and watch it from now on."""
        self._children.append(child)
        child.start()
        return child

    def supervise(self) -> None:
        """Restart who died, and keep the logs bounded; call it about every half second."""
        for child in self._children:
            child.supervise()
        if time.monotonic() - self._bounded_at > BOUND_EVERY_S:
            self._bounded_at = time.monotonic()
            for child in self._children:
                log_files.bound(child.log_file)

    def remove(self, child: Child) -> None:
        """End one child and watch it no more."""
        self._children.remove(child)
        self._end([child])

    @property
    def restarts(self) -> int:
        """How often a child had to be started again."""
        return sum(child.restarts for child in self._children)

    def children(self) -> list[Child]:
        """Return the children in the order they were started."""
        return list(self._children)

    def end(self) -> None:
        """End everything; the broker, which was started first, goes last so that services can take their leave."""
        self._end(self._children[1:])
        self._end(self._children[:1])
        self._children.clear()

    def _end(self, group: list[Child]) -> None:
        for child in group:
            child.signal(signal.SIGCONT)
            child.signal(signal.SIGTERM)
        for child in group:
            if child.process is None:
                continue
            try:
                child.process.wait(child.stop_s)
            except subprocess.TimeoutExpired:
                log.warning("%s did not end within %.0f s; killed", child.name, child.stop_s)
                child.signal(signal.SIGKILL)
                child.process.wait(5)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)  # what it left behind in its group, e.g. Triton's stubs
            if child._watchdog is not None:
                child._watchdog.close()
