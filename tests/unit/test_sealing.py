"""What is sealed opens with each key of the setting, and nowhere else."""

import base64

import pytest

from clockjack.sealing import CannotOpen, Seal, read_keys
from clockjack.settings import SettingsError, from_environment

ONE, TWO = b"1" * 32, b"2" * 32
GOOD = {"CLOCKJACK_DATABASE_URL": "mysql+pymysql://u@h/d", "CLOCKJACK_REDIS_URL": "redis://h"}


def test_what_is_sealed_opens_at_its_place_only() -> None:
    sealed = Seal([ONE]).seal("geheim", "endpoint a/b")
    assert "geheim" not in sealed
    assert Seal([ONE]).open(sealed, "endpoint a/b") == "geheim"
    assert Seal([ONE]).seal("geheim", "endpoint a/b") != sealed
    with pytest.raises(CannotOpen):
        Seal([ONE]).open(sealed, "endpoint a/c")


@pytest.mark.parametrize("change", [lambda s: s[:-4] + "AAA=", lambda s: s[2:], lambda s: "", lambda s: s + "!"])
def test_what_was_changed_does_not_open(change) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CannotOpen):
        Seal([ONE]).open(change(Seal([ONE]).seal("x", "p")), "p")


def test_a_new_key_comes_first_and_the_old_one_still_opens() -> None:
    old = Seal([ONE]).seal("x", "p")
    both = Seal([TWO, ONE])
    assert both.open(old, "p") == "x"
    new = both.seal("x", "p")
    assert Seal([TWO]).open(new, "p") == "x"
    for seal, sealed in ((Seal([TWO]), old), (Seal([ONE]), new), (Seal([]), old)):
        with pytest.raises(CannotOpen, match="CLOCKJACK_SECRET_KEYS"):
            seal.open(sealed, "p")
    with pytest.raises(CannotOpen, match="not set"):
        Seal([]).seal("x", "p")


def test_keys_are_read_from_the_environment_and_shown_nowhere() -> None:
    text = ",".join(base64.b64encode(key).decode() for key in (TWO, ONE))
    settings = from_environment(GOOD | {"CLOCKJACK_SECRET_KEYS": text})
    assert settings.secret_keys == (TWO, ONE)
    assert "2222" not in repr(settings)
    assert read_keys(base64.urlsafe_b64encode(b"\xff" * 32).decode()) == (b"\xff" * 32,)
    for bad in ("short", base64.b64encode(b"x" * 31).decode(), text + ",?"):
        with pytest.raises(SettingsError, match="32 bytes") as error:
            from_environment(GOOD | {"CLOCKJACK_SECRET_KEYS": bad})
        assert bad not in str(error.value)
