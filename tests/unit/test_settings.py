"""Settings: a value that cannot be used stops the process with its name and what was expected."""

from pathlib import Path

import pytest

from clockjack.settings import SettingsError, from_environment

GOOD = {"CLOCKJACK_DATABASE_URL": "mysql+pymysql://u:secret@h/d", "CLOCKJACK_REDIS_URL": "redis://h"}


def test_defaults_and_units() -> None:
    settings = from_environment(GOOD)
    assert (settings.queue, settings.concurrency, settings.http_host) == ("default", 50, "127.0.0.1")


def test_port_is_what_a_runner_of_the_procfile_gives() -> None:
    settings = from_environment(GOOD | {"PORT": "5000"})
    assert (settings.http_port, settings.metrics_port) == (5000, 5000)
    assert from_environment(GOOD | {"PORT": "5000", "CLOCKJACK_HTTP_PORT": "6000"}).http_port == 6000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CLOCKJACK_CONCURRENCY", "0"),
        ("CLOCKJACK_CONCURRENCY", "many"),
        ("CLOCKJACK_GRACE_S", "nan"),
        ("CLOCKJACK_GRACE_S", "-1"),
        ("CLOCKJACK_ISOLATED", "perhaps"),
        ("CLOCKJACK_QUEUE", "a b"),
        ("CLOCKJACK_HTTP_PORT", "70000"),
        ("CLOCKJACK_REDIS_URL", "http://h"),
        ("CLOCKJACK_HTTP_ALLOW", "10.0.0.0/8,intranet"),
        ("CLOCKJACK_HTTP_PORTS", "80,0"),
    ],
)
def test_a_bad_value_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name):
        from_environment(GOOD | {name: value})


def test_a_bad_url_is_not_shown() -> None:
    with pytest.raises(SettingsError) as error:
        from_environment(GOOD | {"CLOCKJACK_DATABASE_URL": "postgres://u:secret@h"})
    assert "secret" not in str(error.value)


def test_the_short_form_of_a_database_url() -> None:
    assert from_environment(GOOD | {"CLOCKJACK_DATABASE_URL": "mysql://u@h/d"}).database_url == "mysql+pymysql://u@h/d"


def test_a_missing_url_says_what_to_do() -> None:
    with pytest.raises(SettingsError, match="make up"):
        from_environment({})


def test_a_secret_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text("redis://from-file\n")
    env = {"CLOCKJACK_DATABASE_URL": GOOD["CLOCKJACK_DATABASE_URL"], "CLOCKJACK_REDIS_URL_FILE": str(file)}
    assert from_environment(env).redis_url == "redis://from-file"
    with pytest.raises(SettingsError, match="REDIS_URL_FILE"):
        from_environment(env | {"CLOCKJACK_REDIS_URL_FILE": str(tmp_path / "none")})
