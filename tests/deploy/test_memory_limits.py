"""A whole machine under qemu, with a kernel of its own: there MemoryMax is enforced, which a container can't show.

One boot: the package is installed into the disk while it is not running, the services start, one of them eats memory,
and only that one is ended and started again.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deploy.conftest import needs
from tests.deploy.nspawn import base_system, layered

pytestmark = pytest.mark.timeout(1800)

UNITS = ("genre-fetcher", "genre-featurizer@1", "genre-inference@1", "genre-dashboard")
GLUTTON = "genre-featurizer@9"
EAT = (
    "from services.process.systemd_notify import notify; notify('READY=1'); "
    "eaten = [b'x' * 50_000_000 for _ in range(24)]; "
    "print('ate', sum(map(len, eaten)), flush=True)"
)
SCRIPT = f"""#!/bin/sh
say() {{ echo "PROOF $*" >/dev/ttyS0; }}
until systemctl is-active -q {" ".join(UNITS)}; do sleep 1; done
for unit in {" ".join(UNITS)}; do
    group=/sys/fs/cgroup$(systemctl show -P ControlGroup $unit)
    say $unit limit $(systemctl show -P MemoryMax $unit) kernel $(cat $group/memory.max) peak $(cat $group/memory.peak)
done
systemctl start {GLUTTON}
until [ "$(systemctl show -P NRestarts {GLUTTON})" -ge 1 ]; do sleep 1; done
say glutton $(journalctl -u {GLUTTON} --no-pager -o cat | grep -m1 -o "Failed with result 'oom-kill'")
say ate $(journalctl -u {GLUTTON} --no-pager -o cat | grep -c '^ate')
systemctl stop {GLUTTON}
for unit in {" ".join(UNITS)}; do
    say $unit state $(systemctl is-active $unit) restarts $(systemctl show -P NRestarts $unit)
done
say end
"""
SERVICE = """[Unit]
After=genre.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
TimeoutStartSec=600
ExecStart=/proof.sh
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def told(scratch: Path, packages: list[Path]) -> list[str]:
    """Return what the machine said on its serial line."""
    needs("qemu-system-x86_64", "debootstrap", "systemd-nspawn", "mke2fs")
    base, disk, log = base_system(scratch), scratch / "disk.img", scratch / "serial.log"
    with layered(base, scratch / "virtual") as root:
        shutil.copyfile(packages[0], root / "package.deb")
        install = ["systemd-nspawn", "-q", "-D", str(root), "-M", "virtual", "--register=no", "--keep-unit"]
        install += ["--private-network", "--pipe"]
        subprocess.run([*install, "dpkg", "-i", "/package.deb"], check=True, stdout=subprocess.DEVNULL)
        (root / "package.deb").unlink()
        (root / "proof.sh").write_text(SCRIPT)
        (root / "proof.sh").chmod(0o755)
        system = root / "etc/systemd/system"
        (system / "proof.service").write_text(SERVICE)
        (system / "multi-user.target.wants/proof.service").symlink_to("/etc/systemd/system/proof.service")
        (system / "serial-getty@ttyS0.service").symlink_to("/dev/null")
        # Emulated, a service takes minutes to start; how fast it is, is not what is tested here.
        for name in ("genre-fetcher", "genre-featurizer@", "genre-inference@", "genre-dashboard"):
            patience = system / f"{name}.service.d"
            patience.mkdir(exist_ok=True)
            (patience / "slow.conf").write_text("[Service]\nTimeoutStartSec=900\nWatchdogSec=0\n")
        glutton = system / f"{GLUTTON}.service.d"
        glutton.mkdir()
        (glutton / "eat.conf").write_text(
            f'[Service]\nExecStart=\nExecStart=/usr/lib/genre-edge/venv/bin/python -c "{EAT}"\n'
        )
        kernel, initrd = (next((root / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
        for file in (kernel, initrd):
            shutil.copyfile(file, scratch / file.name)
        command = ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), "4G"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    machine = [
        "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2500", "-nographic",
        "-no-reboot", "-nic", "none", "-kernel", str(scratch / kernel.name), "-initrd", str(scratch / initrd.name),
        "-append", "root=/dev/vda rw console=ttyS0 quiet", "-drive", f"file={disk},if=virtio,format=raw",
    ]  # fmt: skip
    try:
        with log.open("wb") as file:
            subprocess.run(machine, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=1200, check=True)
    except subprocess.TimeoutExpired:
        pytest.fail(f"the machine did not power off: ...{log.read_text(errors='replace')[-3000:]}")
    finally:
        disk.unlink()
    text = log.read_text(errors="replace").replace("\r", "")
    lines = re.findall(r"PROOF (.*)", text)
    assert lines[-1:] == ["end"], text[-3000:]
    return lines


@pytest.mark.parametrize("unit", UNITS)
def test_the_kernel_holds_each_service_to_its_units_limit(unit: str, told: list[str]) -> None:
    (line,) = [line for line in told if line.startswith(f"{unit} limit")]
    _, _, limit, _, kernel, _, peak = line.split()
    print(f"\n{unit}: peak {int(peak) / 1e6:.0f} MB of {int(limit) / 1e6:.0f}")
    assert limit == kernel
    assert int(peak) < int(limit) / 2, "after its start a service needs less than half of what it may have"


def test_a_service_that_eats_memory_is_ended_and_started_again(told: list[str]) -> None:
    assert "glutton Failed with result 'oom-kill'" in told
    assert "ate 0" in told


@pytest.mark.parametrize("unit", UNITS)
def test_its_neighbours_do_not_notice(unit: str, told: list[str]) -> None:
    assert f"{unit} state active restarts 0" in told
