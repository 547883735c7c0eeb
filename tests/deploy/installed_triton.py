"""A real Triton where deploy/triton/README.md unpacks one on a device: the CPU build inside the nvidia-pytriton wheel.

Only what differs from a device's tarball is arranged here: its Python backend and that backend's own interpreter.
Start at `install`.
"""

from __future__ import annotations

import shutil

from services.supervisor.triton_server import Bundle
from tests.deploy.nspawn import Machine

HOME = "usr/lib/genre-edge/triton"
DROP_IN = "etc/systemd/system/genre-triton.service.d/python.conf"


def install(machine: Machine, bundle: Bundle) -> None:
    """Put the bundle into the machine and write the model repository, with the installed tools."""
    home = machine.root / HOME
    machine.run(f"python3 -m venv --without-pip /{HOME}/python")
    packages = bundle.python.parents[1] / "lib"
    (version,) = (path.name for path in packages.iterdir())
    target = home / "python/lib" / version / "site-packages"
    shutil.copytree(packages / version / "site-packages", target, symlinks=True, dirs_exist_ok=True)
    inside = target / "pytriton/tritonserver"
    (home / "bin").mkdir()
    (home / "bin/tritonserver").symlink_to("/" + str((inside / "bin/tritonserver").relative_to(machine.root)))
    (home / "backends").mkdir()
    shutil.copytree(inside / "backends/python", home / "backends/python")
    # Linked, not copied: it finds its libraries from where it lies.
    stub = inside / "python_backend_stubs" / version[6:] / bundle.stub.name
    (home / "backends/python" / stub.name).symlink_to("/" + str(stub.relative_to(machine.root)))
    drop_in = machine.root / DROP_IN
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\nEnvironment=PATH=/{HOME}/python/bin:/usr/bin:/bin\n")
    tools = "/usr/lib/genre-edge/triton-tools"
    machine.run(
        f"cd {tools} && ../venv/bin/python repository.py --device cpu --models ../models"
        " --out /var/lib/genre-edge/triton/models"
    )


def check(machine: Machine) -> str:
    """Compare its answers with the reference's, as the README says; return what that printed."""
    tools = "/usr/lib/genre-edge/triton-tools"
    command = (
        f"cd {tools} && ../venv/bin/python check.py --models ../models --precision fp32 --form deployed --windows 16"
    )
    done = machine.run(command, check=False)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr[-500:]}\n{machine.run('journalctl -u genre-triton -n 60').stdout}"
    )
    return done.stdout
