"""What a client trusts and who it says it is: the TLS of one broker's connection. Start at `context`."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from services.errors import GenreError
from services.settings import credentials
from services.settings.schema import Broker


def context(broker: Broker) -> ssl.SSLContext:
    """Return the TLS settings for a broker: its CA or the system's, and this client's certificate where one is set.

    Raises:
        GenreError: naming the file and the key of the configuration that names it.
    """
    try:
        made = ssl.create_default_context(cafile=str(broker.ca_file) if broker.ca_file else None)
    except OSError as error:
        reason = f"can't be used as CA certificate ({_words(error)})"
        raise GenreError(str(broker.ca_file), reason, "set broker.ca_file to a copy of the broker's ca.crt") from error
    if broker.certificate_file is not None:
        key = credentials.located(broker.key_file or broker.certificate_file)
        _readable(broker.certificate_file, "broker.certificate_file")
        _readable(key, "broker.key_file")
        try:
            made.load_cert_chain(broker.certificate_file, key, password=_no_passphrase)
        except (OSError, ValueError) as error:
            raise GenreError(
                str(broker.certificate_file),
                f"can't be used as client certificate with the key {key} ({_words(error)})",
                "set broker.certificate_file and broker.key_file to a PEM pair without passphrase",
            ) from error
    return made


def judgement(broker: Broker, timeout_s: float) -> ssl.SSLError | None:
    """Connect once more and say nothing: return the alert by which the broker ends such a connection, None without one.

    In TLS 1.3 a server judges the client's certificate when the client's handshake is long over. Where CONNECT came
    first, it ends the connection with bytes unread, which resets it, and the reset may overtake the alert.
    """
    try:
        with (
            socket.create_connection((broker.host, broker.port), timeout_s) as raw,
            context(broker).wrap_socket(raw, server_hostname=broker.host) as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as error:
        # An end without a word is no alert: taken for one, it would say that there is no TLS, which there was before.
        return None if isinstance(error, ssl.SSLEOFError) else error
    except (OSError, GenreError):
        return None
    return None


def _readable(path: Path, key: str) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise GenreError(str(path), f"can't be read ({error.strerror})", f"check {key}") from error


def _no_passphrase() -> str:
    """Stop OpenSSL from asking at a terminal, where nobody sits."""
    raise ValueError("the key has a passphrase")


def _words(error: Exception) -> str:
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
