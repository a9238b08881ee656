"""What handlers take of their payloads: by their signatures, checked, and told without the values."""

import asyncio
import functools
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from clockjack import handlers
from clockjack.endings import InvalidPayload
from clockjack.handlers import Run, handler

SECRET = "hunter2-secret"


class Mail(BaseModel):
    """A whole payload."""

    to: str
    copies: int = 1


class Strict(BaseModel):
    """Takes from JSON what JSON can say."""

    model_config = ConfigDict(strict=True, extra="forbid")
    day: date
    parts: tuple[int, int] = (1, 2)


class Own(BaseModel):
    """With a validator of its own."""

    to: str

    @field_validator("to")
    @classmethod
    def known(cls, to: str) -> str:
        """Nobody is."""
        raise ValueError("nobody we know")


class Cat(BaseModel):
    """One of two."""

    kind: Literal["cat"]


class Dog(BaseModel):
    """The other."""

    kind: Literal["dog"]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    before = dict(handlers.registry)
    yield
    handlers.registry.clear()
    handlers.registry.update(before)


def run(payload: Any) -> Run:
    return Run(7, "1-1", 1, "default", None, "x", payload, datetime(2027, 1, 1, tzinfo=UTC), 1, 0, 60)


def called(function: Callable[..., Any], payload: Any) -> Any:
    """What the registered function returns for this payload."""
    handler("x")(function)
    value = handlers.registry.pop("x")(run(payload))
    return asyncio.run(value) if asyncio.iscoroutine(value) else value


def refused(function: Callable[..., Any], payload: Any) -> str:
    with pytest.raises(InvalidPayload) as caught:
        called(function, payload)
    text = str(caught.value)
    assert SECRET not in text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__  # nor does a traceback show the values
    return text


def test_who_takes_the_run_takes_the_run() -> None:
    def untold(r):  # type: ignore[no-untyped-def]
        return r.id

    def told(anything: Run) -> int:
        return anything.id

    def quoted(run: "Run") -> int:
        return run.id

    def unreadable(run: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821
        return run.id  # type: ignore[no-any-return]

    def everything(*args: Any, **kwargs: Any) -> int:
        assert not kwargs
        return int(args[0].id)

    class Called:
        def __call__(self, run: Run) -> int:
            return run.id

        def method(self, run: Run) -> int:
            return run.id

    @functools.wraps(told)
    def wrapped(*args: Any) -> int:
        return told(*args)

    for function in (untold, told, quoted, unreadable, everything, wrapped, Called().method, lambda run: run.id):
        assert called(function, {"not": "looked at"}) == 7
    one = Called()
    one.__qualname__ = "Called"  # type: ignore[attr-defined]
    assert called(one, None) == 7


def test_the_decorator_gives_the_function_back_as_it_was() -> None:
    def send(to: str) -> str:
        return to

    assert handler("x")(send) is send
    handler("x")(send)  # the same again is no other
    with pytest.raises(ValueError, match="two handlers are named 'x'"):
        handler("x")(test_who_takes_the_run_takes_the_run)


def test_a_model_takes_the_whole_payload() -> None:
    def send(mail: Mail) -> Any:
        return mail

    def both(mail: Mail, run: Run) -> Any:
        return mail, run.id

    async def later(run: Run, mail: Mail) -> Any:
        return mail, run.id

    mail = Mail(to="a", copies=2)
    assert called(send, {"to": "a", "copies": 2}) == mail
    assert called(send, {"to": "a", "copies": "2", "more": 1}) == mail  # as the model has it
    assert called(both, {"to": "a", "copies": 2}) == (mail, 7)
    assert called(later, {"to": "a", "copies": 2}) == (mail, 7)


def test_json_is_read_by_the_rules_for_json() -> None:
    def take(it: Strict) -> Any:
        return it.day, it.parts

    assert called(take, {"day": "2027-02-03", "parts": [3, 4]}) == (date(2027, 2, 3), (3, 4))


def test_names_are_taken_from_an_object() -> None:
    def send(run: Run, to: str, copies: int = 1, *, copy: bool = False, _own: list[int] | None = None) -> Any:
        return run.id, to, copies, copy, _own

    assert called(send, {"to": "a"}) == (7, "a", 1, False, None)
    assert called(send, {"to": "a", "copies": "3", "copy": True, "_own": [1]}) == (7, "a", 3, True, [1])


def test_a_default_is_the_functions_own() -> None:
    default = object()

    def take(x: Any = default, y=default) -> Any:  # type: ignore[no-untyped-def]
        return x is default, y is default

    assert called(take, None) == called(take, {}) == (True, True)
    assert called(take, {"x": None}) == (False, True)


def test_more_names_are_taken_by_who_takes_them() -> None:
    def take(x: int, **more: Any) -> Any:
        return x, more

    assert called(take, {"x": 1, "y": [2]}) == (1, {"y": [2]})


def test_who_takes_nothing_wants_nothing() -> None:
    def tick() -> str:
        return "tock"

    assert called(tick, None) == called(tick, {}) == "tock"
    assert refused(tick, {"x": SECRET}) == "x: Extra inputs are not permitted"


def test_a_model_beside_names_is_one_of_them() -> None:
    def send(mail: Mail, urgent: bool) -> Any:
        return mail.to, urgent

    assert called(send, {"mail": {"to": "a"}, "urgent": True}) == ("a", True)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        ({}, "to: Field required"),
        ({"to": [SECRET]}, "to: Input should be a valid string"),
        (
            {"to": "a", "copies": SECRET},
            "copies: Input should be a valid integer, unable to parse string as an integer",
        ),
        (SECRET, "payload: Input should be an object"),
        ([SECRET], "payload: Input should be an object"),
        (None, "payload: Input should be an object"),
    ],
)
def test_what_does_not_fit_a_model_is_told_without_its_values(payload: Any, told: str) -> None:
    def send(mail: Mail) -> None:
        raise AssertionError("it began")

    assert refused(send, payload) == told


def test_what_does_not_fit_names() -> None:
    def send(to: str, copies: int = 1) -> None:
        raise AssertionError("it began")

    assert refused(send, {}) == "to: Field required"
    assert refused(send, {"to": "a", "cc": SECRET}) == "cc: Extra inputs are not permitted"
    assert refused(send, {"to": 1, "copies": SECRET}).count(": ") == 2
    assert refused(send, [SECRET]) == "payload: Input should be an object"


def test_much_that_does_not_fit_is_told_in_short() -> None:
    def take(numbers: list[int]) -> None: ...

    told = refused(take, {"numbers": [SECRET] * 1_000})
    assert told.endswith("; and 995 more")
    assert len(told) < 600
    assert refused(take, {"numbers": [1], "k" * 5_000: 1}) == f"{'k' * 60}: Extra inputs are not permitted"


def test_a_validators_own_words_and_a_tag() -> None:
    def own(it: Own) -> None: ...
    def pet(it: Annotated[Cat | Dog, Field(discriminator="kind")]) -> None: ...

    assert refused(own, {"to": SECRET}) == "to: Value error, nobody we know"
    assert refused(pet, {"it": {"kind": SECRET}}) == "it: 'kind' is none of 'cat', 'dog'"


def test_a_signature_that_cannot_be_served_is_refused_when_it_is_registered() -> None:
    class Odd:
        pass

    def positional(x: int, /) -> None: ...
    def two(a: Run, b: Run) -> None: ...
    def odd(x: Odd, y: int) -> None: ...
    def unreadable(x: int, y: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for function, told in (
        (positional, "the payload cannot name x"),
        (two, "a and b would both be the run"),
        (odd, "Unable to generate pydantic-core schema"),
        (unreadable, "an annotation cannot be read: name 'Nowhere' is not defined"),
    ):
        with pytest.raises(TypeError, match=f"handler 'x': {told}"):
            handler("x")(function)
        assert "x" not in handlers.registry
