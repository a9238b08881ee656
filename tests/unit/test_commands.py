"""The setting CLOCKJACK_COMMANDS: what it says, and what stops a consumer with a clear line."""

import json
from typing import Any

import pytest

from clockjack import commands
from clockjack.commands import Command
from clockjack.settings import SettingsError, from_environment

URLS = {"CLOCKJACK_DATABASE_URL": "mysql+pymysql://a", "CLOCKJACK_REDIS_URL": "redis://a"}


def test_it_is_off_by_default() -> None:
    assert from_environment(URLS).commands == {}


def test_a_list_and_an_object() -> None:
    given = {"a": ["/bin/true", "-x"], "b": {"argv": ["/bin/b"], "env": {"R": "eu"}, "cwd": "/opt", "memory_mb": 0}}
    found = from_environment(URLS | {"CLOCKJACK_COMMANDS": json.dumps(given)}).commands
    assert found == {
        "a": Command(argv=("/bin/true", "-x")),
        "b": Command(argv=("/bin/b",), env={"R": "eu"}, cwd="/opt", memory_mb=0),
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "expected an object"),
        ({"a": "rm -rf /"}, "command 'a': expected a list, or an object with argv"),
        ({"a": []}, "argv: expected a list of texts, the first of them the absolute path"),
        ({"a": ["rm", "x"]}, "argv: expected a list of texts, the first of them the absolute path"),
        ({"a": ["/bin/rm", 5]}, "argv: expected a list of texts"),
        ({"a": ["/bin/rm", "\0"]}, "argv: expected a list of texts"),
        ({"a": {"env": {}}}, "expected a list, or an object with argv"),
        ({"a": {"argv": ["/b"], "shell": True}}, "shell: expected no such field"),
        ({"a": {"argv": ["/b"], "env": {"CLOCKJACK_RUN_KEY": "x"}}}, "env: expected an object of texts"),
        ({"a": {"argv": ["/b"], "env": {"A=B": "x"}}}, "env: expected an object of texts"),
        ({"a": {"argv": ["/b"], "cwd": "here"}}, "cwd: expected an absolute path"),
        ({"a": {"argv": ["/b"], "memory_mb": -1}}, "memory_mb: expected a whole number"),
        ({"a": {"argv": ["/b"], "memory_mb": True}}, "memory_mb: expected a whole number"),
        ({"": ["/b"]}, "command ''"),
    ],
)
def test_what_cannot_be_used_names_the_command_and_the_field(given: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        commands.read(json.dumps(given))


def test_what_is_no_json_is_told_without_what_it_is() -> None:
    """An env in it may hold a secret."""
    with pytest.raises(SettingsError) as caught:
        from_environment(URLS | {"CLOCKJACK_COMMANDS": "{hunter2"})
    assert str(caught.value) == "CLOCKJACK_COMMANDS=(hidden): expected JSON"
