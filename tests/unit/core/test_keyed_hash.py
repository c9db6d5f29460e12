"""The keyed hash is the standard library's HMAC."""

from __future__ import annotations

import hmac

from hypothesis import example, given
from hypothesis import strategies as st

from deviceflow.core.keyed_hash import KeyedHash


@given(key=st.binary(max_size=200), text=st.binary(max_size=300))
@example(key=b"k" * 64, text=b"text")
@example(key=b"k" * 65, text=b"text")
def test_it_is_hmac(key: bytes, text: bytes) -> None:
    keyed = KeyedHash(key)

    for _ in range(2):
        assert keyed.of(text) == hmac.digest(key, text, "sha256").hex()


def test_it_shows_no_key() -> None:
    assert "KEY" not in repr(KeyedHash(b"KEY"))
