"""A broker's address means the same in the file, the environment and on the command line, or is refused in words."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from services.errors import UsageError
from services.monitor.watch import watch
from services.settings.loading import checked, load
from services.settings.schema import Broker

GOOD = [
    ("edge-box.local", "edge-box.local", 1883, False, "tcp"),
    ("edge:1884", "edge", 1884, False, "tcp"),
    ("10.0.0.7:1884", "10.0.0.7", 1884, False, "tcp"),
    ("::1", "::1", 1883, False, "tcp"),
    ("[::1]", "::1", 1883, False, "tcp"),
    ("[::1]:1884", "::1", 1884, False, "tcp"),
    ("[fe80::1%eth0]:1884", "fe80::1%eth0", 1884, False, "tcp"),
    ("mqtt://edge", "edge", 1883, False, "tcp"),
    ("mqtts://edge", "edge", 8883, True, "tcp"),
    ("mqtts://[::1]:8884/", "::1", 8884, True, "tcp"),
    ("ws://edge", "edge", 80, False, "websockets"),
    ("wss://edge:9443/mqtt", "edge", 9443, True, "websockets"),
]
BAD = [
    ("", "names no host"),
    (" ", "no host name"),
    ("edge:", "not a port"),
    (":1883", "no host name"),
    ("edge:http", "not a port"),
    ("edge:0", "not a port"),
    ("edge:99999", "not a port"),
    ("edge:１８８３", "not a port"),
    ("[edge]:1883", "IPv6"),
    ("edge box", "no host name"),
    ("edge/path", "no host name"),
    ("http://edge", "no scheme of a broker"),
    ("tcp://edge:1883", "no scheme of a broker"),
    ("mqtts://", "names no host"),
    ("mqtt://u:p@edge", "password_file"),
    ("mqtt://edge/path", "host and port only"),
    ("wss://edge/mqtt?token=1", "host and port only"),
]


@pytest.mark.parametrize(("text", "host", "port", "tls", "transport"), GOOD)
def test_an_address_is_understood_in_the_file_and_the_environment_alike(
    text: str, host: str, port: int, tls: bool, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = checked({"broker": {"host": text}}, "test").broker
    assert (broker.host, broker.port, broker.tls, broker.transport) == (host, port, tls, transport)
    assert Broker.model_validate(broker.model_dump()) == broker
    monkeypatch.setenv("GENRE_BROKER__HOST", text)
    assert load().broker == broker


@pytest.mark.parametrize(("text", "words"), BAD)
def test_what_is_no_address_is_refused_everywhere_alike(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        checked({"broker": {"host": text}}, "test")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    told = CliRunner().invoke(watch, ["--broker", text, "--seconds", "0"]).exception
    assert isinstance(told, UsageError) and words in str(told) and "--broker" in str(told)


def test_the_port_follows_tls_where_none_is_given() -> None:
    assert checked({"broker": {"host": "edge", "ca_file": "ca.crt"}}, "test").broker.port == 8883
    assert checked({"broker": {"host": "edge", "tls": True}}, "test").broker.port == 8883
    assert checked({"broker": {"host": "edge", "tls": True, "port": 1883}}, "test").broker.port == 1883
    assert checked({"broker": {"host": "mqtts://edge", "port": 1884}}, "test").broker.port == 1884


def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(UsageError, match="certificate_file"):
        checked({"broker": {"key_file": "client.key"}}, "test")
