"""A real systemd in a container of its own: a Debian root file system under an overlay, booted by systemd-nspawn.

The host keeps a veth into it, so that origin and subscriber can be outside. Needs root. Start at `Machine`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# The last line is for Triton's model processes and for the boot under qemu.
PACKAGES = (
    "systemd,systemd-sysv,dbus,python3,python3-venv,mosquitto,mosquitto-clients,iproute2,procps,"
    "libpython3.11,linux-image-cloud-amd64,initramfs-tools"
)


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """Wait for a condition with a deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.2)
    return value


def base_system(folder: Path) -> Path:
    """Return a minimal Debian 12, made by debootstrap where it is not there yet (about a minute)."""
    given = os.environ.get("GENRE_ROOTFS")
    root = Path(given) if given else folder / "debian12"
    if not (root / "usr/sbin/mosquitto").exists():
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return root


@contextlib.contextmanager
def layered(base: Path, folder: Path) -> Iterator[Path]:
    """Yield a root file system to change: `base` below, the changes in `folder`; both unmounted and gone afterwards."""
    for part in ("upper", "work", "root"):
        (folder / part).mkdir(parents=True)
    root = folder / "root"
    layers = f"lowerdir={base},upperdir={folder / 'upper'},workdir={folder / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, str(root)], check=True)
    try:
        (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (root / "etc/machine-id").write_text("")
        yield root
    finally:
        subprocess.run(["umount", "-l", str(root)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


class Machine:
    """One booted system.

    Attributes:
        host, address: IPv4 of this side of its network, and of its own side.
    """

    def __init__(self, root: Path, log: Path, name: str = "genre", subnet: str = "10.213.77") -> None:
        self.root, self.log, self.name = root, log, name
        self.host, self.address = f"{subnet}.1", f"{subnet}.2"
        (root / "etc/hostname").write_text(f"{name}\n")
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Boot and wait until systemd has started everything."""
        argv = ["systemd-nspawn", "-q", "-D", str(self.root), "-M", self.name, "--register=no", "--keep-unit"]
        argv += [f"--network-veth-extra=ge-{self.name[:10]}:host0", "--private-network", "--console=pipe", "-b"]
        console = self.log.open("ab")
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        console.close()
        wait_for(lambda: self._leader() is not None, "a leader process")
        state = wait_for(self._settled, "systemd to settle", 120)
        assert state in ("running", "degraded"), state
        here = f"ge-{self.name[:10]}"
        for command in (
            f"ip addr replace {self.host}/24 dev {here}", f"ip link set {here} up",
        ):  # fmt: skip
            subprocess.run(command.split(), check=True)
        self.run(f"ip addr replace {self.address}/24 dev host0 && ip link set host0 up && ip link set lo up")

    def _settled(self) -> str | None:
        done = self.run("systemctl is-system-running", check=False)
        word = done.stdout.strip()
        return word if word in ("running", "degraded", "maintenance", "stopping") else None

    def _leader(self) -> int | None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def run(self, command: str, check: bool = True, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Run a shell command inside, as root."""
        leader = self._leader()
        argv = ["nsenter", "-t", str(leader), "-a", "/bin/sh", "-c", command]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout_s, env=environment)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        return done

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run(f"systemctl show -P {name} '{unit}'").stdout.strip()

    def shut_down(self) -> None:
        """Power off in order; the disk stays."""
        if self.process is not None and self.process.poll() is None:
            self.run("systemctl poweroff", check=False)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(20)
        self.process = None

    def end(self) -> None:
        """Power off; where that does not work, pull the plug."""
        try:
            self.shut_down()
        except (OSError, subprocess.SubprocessError, AssertionError):
            if self.process is not None and self.process.poll() is None:
                self.process.kill()  # what runs inside dies with it
                self.process.wait(30)

    def cut_power(self) -> None:
        """End it at once, as a pulled plug would."""
        assert self.process is not None
        leader = self._leader()
        if leader is not None:
            os.kill(leader, signal.SIGKILL)
        self.process.wait(30)
        self.process = None


def booted(base: Path, folder: Path, **options: str) -> Iterator[Machine]:
    """Yield a booted machine; it is ended and gone afterwards, also where it did not come up."""
    with layered(base, folder) as root:
        machine = Machine(root, folder / "console.log", **options)
        try:
            machine.boot()
            yield machine
        finally:
            machine.end()
