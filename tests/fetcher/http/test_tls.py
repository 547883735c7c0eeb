"""TLS: whom a stream trusts, how long a handshake may take, and where its own certificate goes."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.errors import UsageError
from services.fetcher.http.client import Origin
from services.fetcher.http.connections import tls_context
from services.fetcher.http.errors import FetchError
from services.settings.schema import Stream
from tests.fetcher.builders import hls
from tests.fetcher.http.asking import cause_of, client, raw_server
from tests.fetcher.origin import Reply, ScriptedOrigin, expect_within


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,DNS:station.example"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl to make a certificate")
    return folder


@pytest.fixture
def secure(certificate: Path) -> Iterator[ScriptedOrigin]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with ScriptedOrigin(tls=context) as origin:
        yield origin


def test_own_ca_is_trusted_whatever_requests_ca_bundle_says(
    secure: ScriptedOrigin, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    secure.put("/x", b"x" * 200_000)
    with client(ca_file=certificate / "cert.pem") as one:
        for _ in range(5):
            assert len(one.fetch(secure.url("/x", "localhost"), "segment").body) == 200_000
        assert one.connections == 1
    assert secure.connections == 1


def test_certificates_are_loaded_when_a_plain_stream_is_led_to_tls_and_not_before(
    origin: ScriptedOrigin, secure: ScriptedOrigin, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    tls_context.cache_clear()
    origin.put("/plain", b"plain")
    origin.put("/led", Reply(b"", 302, {"Location": secure.url("/x", "localhost")}))
    secure.put("/x", b"secret")
    with client() as one:
        assert one.fetch(origin.url("/plain"), "segment").body == b"plain"
        assert tls_context.cache_info().currsize == 0
        assert one.fetch(origin.url("/led"), "segment").body == b"secret"
        assert tls_context.cache_info().currsize == 1
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "absent.pem"))
    with client() as one, pytest.raises(UsageError, match=r"absent\.pem.*is not a file of CA certificates"):
        one.fetch(origin.url("/led"), "segment")


def test_an_unknown_ca_and_a_wrong_name_are_refused(secure: ScriptedOrigin, certificate: Path) -> None:
    assert cause_of(secure.url("/x", "localhost")) == "tls"
    with client(ca_file=certificate / "cert.pem") as one, pytest.raises(FetchError) as caught:
        one.fetch(secure.url("/x"), "segment")
    assert caught.value.cause == "tls"


def test_a_server_that_never_shakes_hands_times_out_and_hears_the_stop() -> None:
    never = threading.Event()
    with raw_server(lambda sock: never.wait(10)) as port:
        with expect_within(4):
            assert cause_of(f"https://127.0.0.1:{port}/x", connect_timeout_s=0.3, read_timeout_s=0.3) == "timeout"
        never.set()


def test_a_handshake_may_take_as_long_as_the_settings_say(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            plain, _ = server.accept()
            threading.Event().wait(0.8)  # the other side of the world, and busy
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(65_536)
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with client(ca_file=certificate / "cert.pem", connect_timeout_s=10.0) as one:
            assert one.get(f"https://localhost:{server.getsockname()[1]}/x", "segment").body == b"ok"
        thread.join(5)


@pytest.fixture
def asking(certificate: Path) -> Iterator[ScriptedOrigin]:
    """An origin that wants to see a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.load_verify_locations(certificate / "cert.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with ScriptedOrigin(tls=context) as origin:
        yield origin


def test_the_streams_own_certificate_is_shown_to_its_own_host_and_to_no_other(
    asking: ScriptedOrigin, certificate: Path
) -> None:
    asking.put("/x", b"for members")
    url = asking.url("/x", "localhost")
    settings = hls(ca_file=certificate / "cert.pem")
    own = {"client_cert_file": certificate / "cert.pem", "client_key_file": certificate / "key.pem"}
    for stream, welcome in (
        (Stream(name="t", url=url, **own), True),
        (Stream(name="t", url=url), False),
        (Stream(name="t", url="https://localhost/other", **own), False),
    ):
        one = Origin(stream, settings, threading.Event())
        if welcome:
            assert one.fetch(url, "segment").body == b"for members"
        else:
            with pytest.raises(FetchError):
                one.fetch(url, "segment")
        one.close()


@pytest.mark.parametrize("broken", ["absent", "no key", "locked key"])
def test_a_certificate_that_cant_be_used_is_named_at_once(broken: str, certificate: Path, tmp_path: Path) -> None:
    file, key = certificate / "cert.pem", None
    if broken == "absent":
        file = tmp_path / "absent.pem"
    elif broken == "locked key":
        key = tmp_path / "locked.pem"
        command = ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", str(certificate / "key.pem")]
        subprocess.run([*command, "-out", str(key)], check=True, capture_output=True)
    stream = Stream(name="bbc", url="https://localhost/x", client_cert_file=file, client_key_file=key)
    with pytest.raises(UsageError, match=rf"{file.name}.*client_key_file of stream bbc"):
        Origin(stream, hls(), threading.Event())
