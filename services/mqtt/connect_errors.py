"""Why a broker can't be reached or does not let this client in: one error that names the layer, and what to do.

Values only: exceptions of a socket and reason codes of a CONNACK (MQTT 5, 3.2.2.2) in, a GenreError out. The client
logs it, `genre watch`, the page and the doctor show it. Start at `of_socket` and `of_connack`.
"""

from __future__ import annotations

import socket
import ssl

from services.errors import GenreError
from services.settings.schema import Broker

SERVER_BUSY, BAD_CREDENTIALS, NOT_AUTHORIZED, BAD_CLIENT_ID, BANNED = 137, 134, 135, 133, 138
_NOT_YET_VALID, _EXPIRED, _HOST_MISMATCH, _ADDRESS_MISMATCH = 9, 10, 62, 64
"""X509_V_ERR_... of OpenSSL."""


def name_of(broker: Broker) -> str:
    """Return how a person calls a broker in messages."""
    host = f"[{broker.host}]" if ":" in broker.host else broker.host
    return f"MQTT broker {host}:{broker.port}"


def of_socket(broker: Broker, error: BaseException | None, *, connecting: bool = False) -> GenreError:
    """Return why no connection came about.

    Args:
        error: what the socket said; None where the broker ended the connection without a word.
        connecting: it came during TCP, TLS or WebSockets, before MQTT's first word.
    """
    if connecting and broker.uses_tls and isinstance(error, (ConnectionResetError, BrokenPipeError)):
        error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "ends the connection")
    reason, remedy = _of_socket(broker, error)
    return GenreError(name_of(broker), reason, remedy)


def _of_socket(broker: Broker, error: BaseException | None) -> tuple[str, str]:
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return (
            f"the name {broker.host!r} is not known here ({error})",
            "check broker.host, /etc/hosts and the DNS server",
        )
    if isinstance(error, ConnectionRefusedError):
        return "refused: nobody listens there", "start it ('systemctl status mosquitto'), or check broker.port"
    if isinstance(error, TimeoutError):
        return "no answer in time", "look for a firewall; check broker.host, broker.port and whether the port wants TLS"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(broker, error)
    if isinstance(error, ssl.SSLError):
        return _of_tls(broker, error)
    if type(error).__name__ == "WebsocketConnectionError":
        return (
            "does not speak WebSockets there",
            "check broker.port and broker.websockets_path, or set broker.transport to tcp",
        )
    if error is None or isinstance(error, (ConnectionResetError, BrokenPipeError, EOFError)):
        return "ends the connection before it answers MQTT", _other_port(broker)
    return f"can't be reached ({error})", "check the network, broker.host and broker.port"


def _other_port(broker: Broker) -> str:
    tls = broker.uses_tls
    want = "the port may be one without TLS or ask for a client certificate" if tls else "the port may be one for TLS"
    more = "" if broker.transport == "websockets" else " or for WebSockets"
    setting = "broker.certificate_file and broker.key_file" if tls else "broker.ca_file or broker.tls"
    return f"{want}{more}: check broker.port and {setting}; the broker's log tells more"


def _of_certificate(broker: Broker, error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    said = f"its certificate is not accepted ({error.verify_message})"
    if error.verify_code in (_HOST_MISMATCH, _ADDRESS_MISMATCH):
        return f"wrong name: {said}", "set broker.host to a name or address that its certificate was made for"
    if error.verify_code == _NOT_YET_VALID:
        return f"not yet valid: {said}", "set this machine's clock"
    if error.verify_code == _EXPIRED:
        return f"expired: {said}", "renew it on the broker ('genre broker renew'), or set this machine's clock"
    return f"unknown CA: {said}", "copy the broker's ca.crt here and name it in broker.ca_file"


def _of_tls(broker: Broker, error: ssl.SSLError) -> tuple[str, str]:
    code = (getattr(error, "reason", None) or str(error)).upper()  # one made by hand has none
    ours = broker.certificate_file is not None
    if "CERTIFICATE_REQUIRED" in code or ("HANDSHAKE_FAILURE" in code and not ours):
        return (
            f"asks for a client certificate ({code.lower()})",
            "set broker.certificate_file and broker.key_file to one that its CA signed",
        )
    if "ALERT" in code and ours and any(word in code for word in ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE", "DECRYPT")):
        return (
            f"refuses this client's certificate ({code.lower()})",
            "give one that the broker's CA signed and is valid",
        )
    if isinstance(error, ssl.SSLEOFError) or any(
        word in code for word in ("WRONG_VERSION", "RECORD_LAYER", "EOF", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET")
    ):
        return (
            f"does not speak TLS there ({code.lower()})",
            "check broker.port; without TLS unset broker.tls and broker.ca_file",
        )
    return f"TLS fails ({error})", "check broker.ca_file and the versions of TLS that the broker allows"


def of_connack(broker: Broker, code: int, said: str) -> GenreError:
    """Return why the broker refuses a client, from its reason code.

    Args:
        said: the standard's words for the code.
    """
    if code in (BAD_CREDENTIALS, NOT_AUTHORIZED):
        who = f"user {broker.username!r}" if broker.username else "a client without user name"
        reason = f"does not let in {who}: wrong password, or no such user ({said})"
        remedy = "check broker.username and broker.password_file; 'genre broker user' makes users"
    elif code == BAD_CLIENT_ID:
        reason, remedy = f"refuses this client's id ({said})", "give it another --instance or broker.root"
    elif code == BANNED:
        reason, remedy = f"has banned this client ({said})", "see the broker's log"
    else:
        reason, remedy = f"refuses this client ({said})", "see the broker's log; it is tried again"
    return GenreError(name_of(broker), reason, remedy)
