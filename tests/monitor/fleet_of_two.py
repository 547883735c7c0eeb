"""An upstream broker and boxes, each on a host of its own, configured by the commands that people use."""

from __future__ import annotations

import getpass
import re
import subprocess
from pathlib import Path

from click.testing import CliRunner

from benchmarks.rigs.network import Network
from broker.command import broker
from broker.mosquitto_conf import local_config
from tests.broker.mosquitto import PROGRAM, wait_for

PORT = 8883
LOCAL_PORT = 1883
QUICK = "keepalive_interval 5\nrestart_timeout 1 3"


def command(*words: str) -> str:
    """Run `genre broker ...` and return what it prints."""
    done = CliRunner().invoke(broker, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


class HostBroker:
    """A Mosquitto on a host of the network."""

    def __init__(self, network: Network, host: str, config: Path, port: int) -> None:
        self._network, self._host, self._config = network, host, config
        self.address, self.port = network.addresses[host], port
        self.log = config.with_suffix(f".{host}.log")
        self.start()

    def start(self) -> None:
        assert PROGRAM is not None
        with self.log.open("ab") as log:
            argv = [*self._network.prefix(self._host), PROGRAM, "-c", str(self._config)]
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        wait_for(self._listens, f"mosquitto on {self._host}")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        found = subprocess.run(
            [*self._network.prefix(self._host), "ss", "-ltnH", f"( sport = :{self.port} )"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return bool(found.stdout.strip())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)


class FleetOfTwo:
    """Upstream on host "hub", boxes on hosts of their names; a viewer's files are in `folder`."""

    def __init__(self, network: Network, folder: Path, boxes: tuple[str, ...]) -> None:
        self.network, self.folder = network, folder / "hub"
        state = folder / "hub-state"
        state.mkdir()
        hub = network.addresses["hub"]
        where = ("--folder", str(self.folder))
        command("fleet", "init", *where, "--host", hub, "--port", str(PORT), "--state", str(state))
        command("fleet", "box", *where, *boxes)
        command("fleet", "viewer", *where, "wall")
        config = self.folder / "mosquitto.conf"
        config.write_text(f"user {getpass.getuser()}\n{config.read_text()}")
        self.hub = HostBroker(network, "hub", config, PORT)
        self.boxes = {name: self._box(folder, name, f"{hub}:{PORT}") for name in boxes}

    def _box(self, folder: Path, name: str, upstream: str) -> HostBroker:
        own = folder / name
        own.mkdir()
        config = own / "mosquitto.conf"
        text = local_config(LOCAL_PORT, own, persistence=True, user=getpass.getuser())
        config.write_text(text.replace(" 127.0.0.1", ""))
        command(
            "bridge", "--box", name, "--upstream", upstream, "--conf", str(config), "--ca-file",
            str(self.folder / "ca.crt"), "--password-file", str(self.folder / "passwords" / name),
        )  # fmt: skip
        # The same bridge, only quicker to notice a cut and to come back: a test need not wait for half a minute.
        bridge = own / "bridge.d" / "bridge.conf"
        bridge.write_text(re.sub("keepalive_interval 20\nrestart_timeout 2 30", QUICK, bridge.read_text()))
        assert QUICK in bridge.read_text()
        return HostBroker(self.network, name, config, LOCAL_PORT)

    def stop(self) -> None:
        for box in self.boxes.values():
            box.stop()
        self.hub.stop()
