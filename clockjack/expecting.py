"""What may be said of an expectation, and what is shown of it."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from clockjack import described as says
from clockjack import documents
from clockjack.ledger import expectations
from clockjack.ledger.database import Connection
from clockjack.registration import Refused

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,100}$")]


class NewExpectation(BaseModel):
    """An expectation as it is sent: of a task, or of pings if it names none."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={"examples": [{"name": "nightly", "expect_every_s": 90000, "endpoint": "billing"}]},
    )

    name: Name
    expect_every_s: Annotated[int, Field(ge=1, le=31_536_000), says.WHOLE]
    endpoint: Name
    task_id: Annotated[int, Field(ge=1, le=2**63 - 1), says.WHOLE] | None = None
    queue: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=64)] = "default"


def create(connection: Connection, namespace: str, new: NewExpectation) -> dict[str, Any]:
    """There is a new expectation. Refused names what is not there; StateConflict when its name is taken."""
    try:
        return expectations.create(connection, namespace, new.model_dump())
    except expectations.Missing as error:
        raise Refused([(error.field, str(error))]) from None


def document(row: Mapping[str, Any]) -> dict[str, Any]:
    """The expectation for people and programs outside."""
    return documents.plain({name: value for name, value in row.items() if name not in ("id", "look_at")})
