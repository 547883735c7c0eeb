"""A real Icecast on loopback, and ffmpeg processes that feed it; for tests and benchmarks. Start at `Icecast`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote

import requests

PROGRAM = shutil.which("icecast2") or shutil.which("icecast")
CODECS: dict[str, list[str]] = {
    "mp3": ["-c:a", "libmp3lame", "-b:a", "128k", "-f", "mp3", "-content_type", "audio/mpeg"],
    "aac": ["-c:a", "aac", "-b:a", "128k", "-f", "adts", "-content_type", "audio/aac"],
    "opus": ["-c:a", "libopus", "-b:a", "96k", "-ar", "48000", "-f", "ogg", "-content_type", "application/ogg"],
    "flac": ["-c:a", "flac", "-sample_fmt", "s16", "-f", "ogg", "-content_type", "application/ogg"],
    "vorbis": ["-c:a", "libvorbis", "-b:a", "128k", "-f", "ogg", "-content_type", "application/ogg"],
}
SOUND = "aevalsrc=0.4*sin(2*PI*(200+60*t)*t)+0.1*random(0)|0.4*sin(2*PI*(300+50*t)*t)+0.1*random(1):s={rate}"
CONFIGURATION = """<icecast>
<limits><clients>2000</clients><sources>20</sources><burst-size>{burst}</burst-size><queue-size>2097152</queue-size>
<source-timeout>3</source-timeout></limits>
<authentication><source-password>feed</source-password><admin-user>admin</admin-user><admin-password>feed</admin-password>
</authentication><hostname>localhost</hostname><listen-socket><port>{port}</port><bind-address>127.0.0.1</bind-address>
</listen-socket>{mounts}<fileserve>0</fileserve><paths><basedir>{folder}</basedir><logdir>{folder}</logdir>
<webroot>/usr/share/icecast2/web</webroot><adminroot>/usr/share/icecast2/admin</adminroot></paths>
<logging><accesslog>access</accesslog><errorlog>error</errorlog><loglevel>2</loglevel></logging>
<security><chroot>0</chroot>{owner}</security></icecast>"""


class Icecast:
    """A server; a context manager. Mounts in `fallback` hand their listeners over when their source is gone."""

    def __init__(self, fallback: dict[str, str] | None = None, burst: int = 65_535) -> None:
        self._fallback, self._burst = fallback or {}, burst
        self._folder = Path(tempfile.mkdtemp(prefix="icecast-"))
        self._sources: list[subprocess.Popen[bytes]] = []
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Icecast:
        mounts = "".join(
            f"<mount><mount-name>{mount}</mount-name><fallback-mount>{other}</fallback-mount>"
            "<fallback-override>1</fallback-override></mount>"
            for mount, other in self._fallback.items()
        )
        owner = ""
        if os.getuid() == 0:  # it refuses to run as root
            shutil.chown(self._folder, "nobody")
            owner = "<changeowner><user>nobody</user><group>nogroup</group></changeowner>"
        file = self._folder / "icecast.xml"
        file.write_text(
            CONFIGURATION.format(port=self.port, mounts=mounts, folder=self._folder, owner=owner, burst=self._burst)
        )
        assert PROGRAM is not None
        self._server = subprocess.Popen(
            [PROGRAM, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        _wait_for(self._answers, "icecast's first answer")
        return self

    def __exit__(self, *_: object) -> None:
        for source in self._sources:
            source.kill()
            source.wait(10)
        self._server.send_signal(signal.SIGKILL)
        self._server.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return requests.get(self.url("/status-json.xsl"), timeout=2).ok
        except requests.RequestException:
            return False

    def url(self, mount: str) -> str:
        """Return the URL of a mount."""
        return f"http://127.0.0.1:{self.port}{mount}"

    def feed(self, mount: str, codec: str, rate: int = 44_100, more: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """Start a source at the pace of real time, and wait until its mount answers."""
        command = ["ffmpeg", "-nostdin", "-v", "error", "-re", "-f", "lavfi", "-i", SOUND.format(rate=rate), *more]
        command += [*CODECS[codec], f"icecast://source:feed@127.0.0.1:{self.port}{mount}"]
        source = subprocess.Popen(command)
        self._sources.append(source)
        _wait_for(lambda: self._has(mount), f"the source of {mount}")
        return source

    def drop(self, source: subprocess.Popen[bytes]) -> None:
        """End a source as a crash does."""
        source.kill()
        source.wait(10)

    def _has(self, mount: str) -> bool:
        with contextlib.suppress(requests.RequestException):
            return mount.encode() in requests.get(self.url("/status-json.xsl"), timeout=2).content
        return False

    def title(self, mount: str, text: str) -> None:
        """Say what plays, as a studio's software does."""
        query = f"/admin/metadata?mount={quote(mount)}&mode=updinfo&charset=UTF-8&song={quote(text)}"
        requests.get(self.url(query), auth=("admin", "feed"), timeout=5).raise_for_status()


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about")
        time.sleep(0.05)
