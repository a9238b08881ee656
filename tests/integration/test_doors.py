"""docs/doors.md: what each door can do, cell by cell. A yes is carried out; a no is refused or cannot be said."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from clockjack import Client, ClientError, Refused, cli, enqueue
from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.life import claim_all, owner, select, task
from tests.integration.serving import Producer

PAGE = (Path(__file__).parents[2] / "docs" / "doors.md").read_text()
HEAD, *LINES = [re.split(r"\s*\|\s*", line.strip("| ")) for line in PAGE.splitlines() if line.startswith("|")]
DOORS = ["HTTP", "bulk", "SQL", "Client", "enqueue", "CLI", "crontab"]
TABLE = {line[0]: dict(zip(DOORS, line[1:], strict=True)) for line in LINES if not line[0].startswith("---")}
CELLS = [(what, door) for what, cells in TABLE.items() for door in cells]
FUTURE = "2030-01-01T00:00:00Z"
OPTIONS = {"run_at": "at", "task_key": "key", "timezone": "tz", "every_s": "every", "jitter_s": "jitter"}
OPTIONS |= {"max_lateness_s": "max-lateness"}


class Rejected(Exception):
    """The door did not take it."""


class Doors:
    """Each way in, as a function from a registration to the task's id; and what it said besides."""

    def __init__(
        self, http: TestClient, client: Client, engine: sa.Engine, own: sa.Engine, file: Path, said: Any
    ) -> None:
        self.http, self.client, self.engine, self.own, self.file, self._said = http, client, engine, own, file, said
        self.warnings: list[str] = []

    def register(self, door: str, **fields: Any) -> int:
        document = {"handler": "mock", "payload": {"a": 1}} | fields
        return int(getattr(self, f"_{door.lower()}")(document))

    def _http(self, document: dict[str, Any], key: str | None = None) -> int:
        answer = self.http.post("/v1/tasks", json=document, headers={"Idempotency-Key": key} if key else {})
        if answer.status_code not in (200, 201):
            raise Rejected(answer.text)
        self.warnings = answer.json()["warnings"]
        return int(answer.json()["id"])

    def _bulk(self, document: dict[str, Any], key: str | None = None) -> int:
        sent = {"tasks": [{"handler": "mock", "every_s": 60}, document]}
        answer = self.http.post("/v1/tasks/bulk", json=sent, headers={"Idempotency-Key": key} if key else {})
        if answer.status_code != 201:
            raise Rejected(answer.text)
        self.warnings = answer.json()["warnings"]
        return int(answer.json()["items"][1]["id"])

    def _sql(self, document: dict[str, Any]) -> int:
        values = {k: json.dumps(v) if k in ("payload", "exclude") else str(v).rstrip("Z") for k, v in document.items()}
        names = ", ".join(values)
        try:
            with self.engine.begin() as connection:
                sql = f"INSERT INTO tasks ({names}) VALUES ({', '.join(':' + name for name in values)})"
                return int(connection.execute(sa.text(sql), values).lastrowid)
        except sa.exc.DBAPIError as error:
            raise Rejected(str(error)) from None

    def _python(self, document: dict[str, Any]) -> dict[str, Any]:
        return {k: datetime.fromisoformat(v) if k == "run_at" else v for k, v in document.items()}

    def _client(self, document: dict[str, Any], key: str | None = None) -> int:
        try:
            made = self.client.schedule(**self._python(document), idempotency_key=key)
        except ClientError as error:
            raise Rejected(str(error)) from None
        self.warnings = made["warnings"]
        return made["id"]

    def _enqueue(self, document: dict[str, Any]) -> int:
        try:
            with self.own.begin() as connection:
                return enqueue(connection, **self._python(document))
        except Refused as error:
            raise Rejected(str(error)) from None

    def _cli(self, document: dict[str, Any]) -> int:
        argv = ["add", document["handler"], "--payload", json.dumps(document["payload"]), "--json"]
        for name, value in document.items():
            for one in value if isinstance(value, list) else [value]:
                if name not in ("handler", "payload"):
                    argv += [f"--{OPTIONS.get(name, name).replace('_', '-')}", str(one)]
        code = cli.run(argv)
        out, err = self._said()
        if code:
            raise Rejected(err)
        self.warnings = json.loads(out)["warnings"]
        return int(json.loads(out)["id"])

    def _crontab(self, document: dict[str, Any]) -> int:
        lines = [f"CRON_TZ={document.get('timezone', 'UTC')}", f"RANDOM_DELAY={document.get('jitter_s', 0) // 60}"]
        self.file.write_text("\n".join([*lines, f"{document['cron']} date", ""]))
        if cli.run(["import", "crontab", str(self.file), "--json"]):
            raise Rejected(self._said().err)
        with self.own.begin() as connection:
            found = connection.execute(sa.text("SELECT id FROM tasks WHERE task_key LIKE 'crontab/%' ORDER BY id DESC"))
            return int(found.scalars().first() or 0)


@pytest.fixture
def doors(
    http: TestClient, serving: Producer, users: dict[str, str], redis_url: str, database: Database, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Iterator[Doors]:  # fmt: skip
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", users["producer"])
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    key = owner(database).transaction(lambda c: keys.create(c, "default", "test"))
    engines = [sa.create_engine(users[name]) for name in ("sql_producer", "python_producer")]
    with Client(serving.url, key) as client:
        yield Doors(http, client, *engines, tmp_path / "table", capsys.readouterr)
    for engine in engines:
        engine.dispose()


def row_of(**fields: Any) -> Callable[[Doors, str, Database], bool]:
    """Whether the row has these values when they are registered."""

    def check(doors: Doors, door: str, database: Database) -> bool:
        row = task(database, doors.register(door, **fields))
        texts = {
            k: json.dumps(v, separators=(",", ":")) if isinstance(v, (list, dict)) else v for k, v in fields.items()
        }
        texts |= {"run_at": datetime(2030, 1, 1)} if "run_at" in fields else {}
        return all(str(row[k]).replace(" ", "") == str(v).replace(" ", "") for k, v in texts.items())

    return check


def one_key(doors: Doors, door: str, database: Database) -> bool:
    first = doors.register(door, cron="0 9 * * *", task_key="k")
    try:
        second = doors.register(door, cron="0 10 * * *", task_key="k")
    except Rejected:
        return False
    return first == second and task(database, first)["cron"] == "0 10 * * *"


def together(doors: Doors, door: str, database: Database) -> bool:
    """A rollback of the caller's takes the task with it; other doors have no connection to be given."""
    if door not in ("SQL", "enqueue"):
        return False
    with (doors.own if door == "enqueue" else doors.engine).connect() as connection:
        if door == "SQL":
            connection.exec_driver_sql("INSERT INTO tasks (handler, every_s) VALUES ('mock', 60)")
        else:
            enqueue(connection, "mock", every_s=60)
        connection.rollback()
    return select(database, "SELECT id FROM tasks") == []


def one_answer(doors: Doors, door: str, database: Database) -> bool:
    send: Any = {"HTTP": doors._http, "bulk": doors._bulk, "Client": doors._client}.get(door)
    if send is None:
        return False
    document = {"handler": "mock", "payload": None, "every_s": 60}
    return bool(send(document, "key") == send(document, "key"))


def refused(doors: Doors, door: str, database: Database) -> bool:
    try:
        made = doors.register(door, cron="61 * * * *")
    except Rejected as error:
        return "cron" in str(error) and select(database, "SELECT id FROM tasks") == []
    claim_all(database)
    return task(database, made)["state"] != "invalid"


def warned(doors: Doors, door: str, database: Database) -> bool:
    doors.register(door, cron="0 9 * * *")
    return any("no consumer serves the queue" in text for text in doors.warnings)


def switched(doors: Doors, door: str, database: Database) -> bool:
    if door in ("enqueue", "crontab"):
        return False
    made = doors.register(door, every_s=60)
    states = []
    for verb, state in (("pause", "paused"), ("resume", "active"), ("cancel", "cancelled")):
        if door == "HTTP":
            doors.http.delete(f"/v1/tasks/{made}") if verb == "cancel" else doors.http.post(f"/v1/tasks/{made}/{verb}")
        elif door == "bulk":
            assert doors.http.post("/v1/tasks/control", json={"action": verb, "all": True}).json()["changed"] == 2
        elif door == "SQL":
            with doors.engine.begin() as connection:
                moved = "NULL" if verb == "cancel" else "COALESCE(run_at, UTC_TIMESTAMP(6))"
                also = "" if verb == "pause" else f", next_run_at = {moved}"
                connection.exec_driver_sql(f"UPDATE tasks SET state = '{state}'{also} WHERE id = {made}")
        elif door == "Client":
            getattr(doors.client, verb)(made)
        else:
            assert cli.run([verb, str(made)]) == 0
        states.append(task(database, made)["state"] == state)
    return all(states)


def grouped(doors: Doors, door: str, database: Database) -> bool:
    if door in ("enqueue", "crontab"):
        return False
    if door == "bulk":
        try:
            return bool(doors.register(door, group_key="g", offset_s=-60, task_key="g#-60", run_at=FUTURE))
        except Rejected:
            return False
    document = {"handler": "mock", "payload": None, "anchor_at": FUTURE, "offsets_s": [-60]}
    if door == "HTTP":
        assert doors.http.put("/v1/groups/g", json=document).status_code == 201
    elif door == "SQL":
        doors.register(door, group_key="g", offset_s=-60, task_key="g#-60", run_at="2029-12-31 23:59:00")
    elif door == "Client":
        doors.client.put_group("g", "mock", anchor_at=datetime(2030, 1, 1, tzinfo=UTC), offsets_s=[-60])
    else:
        assert cli.run(["group", "put", "g", "mock", "--anchor", FUTURE, "--offsets=-60"]) == 0
    return bool(doors.client.group("g")["members"][0]["run_at"] == "2029-12-31T23:59:00.000000Z")


CHECKS: dict[str, list[Callable[[Doors, str, Database], bool]]] = {
    "once, at a moment": [row_of(run_at=FUTURE)],
    "again and again: cron in a zone": [row_of(cron="30 2 * * *", timezone="Europe/Berlin")],
    "again and again: every_s, rrule": [row_of(every_s=60), row_of(rrule="FREQ=DAILY")],
    "jitter_s": [row_of(cron="30 2 * * *", jitter_s=60)],
    "exclude": [row_of(cron="30 2 * * *", exclude=["2030-01-01"])],
    "misfire, overlap, max_lateness_s": [row_of(cron="0 * * * *", misfire="all", overlap="skip", max_lateness_s=60)],
    "a payload of one's own": [row_of(cron="30 2 * * *", payload={"b": 2})],
    "the same task_key changes the same task": [one_key],
    "together with the caller's own rows": [together],
    "an Idempotency-Key": [one_answer],
    "a wrong schedule is refused at once": [refused],
    "warnings: nobody serves the queue": [warned],
    "pause, resume, cancel": [switched],
    "groups": [grouped],
}


def test_the_table_is_whole() -> None:
    assert HEAD[-7:] == DOORS
    assert set(TABLE) == set(CHECKS)
    assert {cell for cells in TABLE.values() for cell in cells.values()} == {"yes", "no"}


@pytest.mark.parametrize(("what", "door"), CELLS)
def test_each_cell(what: str, door: str, doors: Doors, database: Database) -> None:
    try:
        can = all(check(doors, door, database) for check in CHECKS[what])
    except KeyError:  # a crontab has no such words
        assert door == "crontab"
        can = False
    assert {True: "yes", False: "no"}[can] == TABLE[what][door]
