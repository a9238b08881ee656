"""What must be read again but not by whoever reads the database: sealed with AES-256-GCM under a key of the settings.

A sealed text is `1.<key id>.<base64 of nonce and ciphertext>`. It is bound to its place: moved to another row, it does
not open. The first key seals, each one opens: to change keys, put the new one first, seal all anew, drop the old.
"""

import base64
import hashlib
import os
from collections.abc import Sequence

NONCE_BYTES = 12


class CannotOpen(Exception):
    """None of the keys opens this, or there is no key."""


class Seal:
    """Keys of 32 bytes each; `place` says what is sealed where."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = {hashlib.sha256(key).hexdigest()[:8]: key for key in reversed(keys)}
        self._first = next(reversed(self._keys), None)

    def seal(self, text: str, place: str) -> str:
        """The text, for this place only. CannotOpen when there is no key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        if self._first is None:
            raise CannotOpen("CLOCKJACK_SECRET_KEYS is not set: nothing can be sealed")
        nonce = os.urandom(NONCE_BYTES)
        hidden = nonce + AESGCM(self._keys[self._first]).encrypt(nonce, text.encode(), place.encode())
        return f"1.{self._first}.{base64.b64encode(hidden).decode()}"

    def open(self, sealed: str, place: str) -> str:
        """The text that was sealed for this place. CannotOpen when the key is missing or the place another."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        version, _, rest = sealed.partition(".")
        key_id, _, hidden = rest.partition(".")
        if version != "1" or key_id not in self._keys:
            raise CannotOpen("the key that it was sealed with is none of CLOCKJACK_SECRET_KEYS")
        try:
            raw = base64.b64decode(hidden, validate=True)
            return AESGCM(self._keys[key_id]).decrypt(raw[:NONCE_BYTES], raw[NONCE_BYTES:], place.encode()).decode()
        except (ValueError, InvalidTag):
            raise CannotOpen("it was changed, or sealed for another place") from None


def read_keys(text: str) -> tuple[bytes, ...]:
    """The keys of the setting; ValueError when one is not 32 bytes in base64."""
    keys = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            key = base64.b64decode(part.replace("-", "+").replace("_", "/"), validate=True)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise ValueError("expected keys of 32 bytes in base64, separated by commas (openssl rand -base64 32)")
        keys.append(key)
    return tuple(keys)
