"""AES-128 decryption of segments (RFC 8216, section 5): which key, which IV; everything else is refused by name.

No network: the key's 16 bytes are given. Start at `refusal` (may this be decoded at all?) and `decrypt`.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from services.fetcher.hls.playlist_lines import UNREADABLE
from services.fetcher.segment import Key, Segment

KEY_BYTES = 16


class DecryptionError(ValueError):
    """The bytes do not decrypt: wrong key, truncated, or not encrypted."""


def refusal(key: Key | None) -> str | None:
    """Return why media under this key can't be decoded, or None where it can."""
    if key is None:
        return None
    if key.method == UNREADABLE:
        return "has an EXT-X-KEY that can't be understood"
    if key.keyformat != "identity":
        return f"is encrypted with DRM ({key.method}, KEYFORMAT {key.keyformat[:80]!r})"
    if key.method != "AES-128":
        return f"is encrypted with {key.method[:40]}"
    if not key.uri:
        return "is encrypted with AES-128 but the playlist gives no key URI"
    return None


def initialization_vector(key: Key, segment: Segment) -> bytes:
    """Return the IV: the one in the tag, else the segment's media sequence number, 128 bits big-endian."""
    if key.iv is not None:
        return key.iv
    return (segment.media_sequence % (1 << 128)).to_bytes(KEY_BYTES, "big")


def decrypt(data: bytes, key: bytes, iv: bytes) -> bytes:
    """Decrypt AES-128-CBC and take off the PKCS7 padding.

    Raises:
        DecryptionError: key, length or padding is wrong.
    """
    if len(key) > KEY_BYTES and not key[KEY_BYTES:].strip(b"\r\n"):
        key = key[:KEY_BYTES]  # some key servers end the key with a line end
    if len(key) != KEY_BYTES:
        raise DecryptionError(f"the key has {len(key)} bytes, not {KEY_BYTES}")
    if not data or len(data) % KEY_BYTES:
        raise DecryptionError(f"{len(data):,} bytes are not whole AES blocks")
    decryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
    plain = decryptor.update(data) + decryptor.finalize()
    padding = plain[-1]
    if not 1 <= padding <= KEY_BYTES or plain[-padding:] != bytes([padding]) * padding:
        raise DecryptionError("the padding is wrong (wrong key?)")
    return plain[:-padding]
