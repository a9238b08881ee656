"""Both clients, which send the same calls: what each method does, what comes back, what is declared by a decorator."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import httpx2
import pytest

from clockjack import AsyncClient, Client, ClientError, Run, answers, calls, outlook
from clockjack.handlers import registry
from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.life import insert, owner, select
from tests.integration.serving import Producer

FUTURE = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def key(database: Database, redis_url: str) -> str:
    return owner(database).transaction(lambda c: keys.create(c, "default", "test"))


@pytest.fixture
def client(serving: Producer, key: str) -> Iterator[Client]:
    with Client(serving.url, key) as client:
        yield client


@pytest.fixture
def looped(serving: Producer, key: str) -> Callable[[Callable[[AsyncClient], Awaitable[Any]]], Any]:
    """Runs a coroutine with an AsyncClient on a loop of its own."""

    def run(body: Callable[[AsyncClient], Awaitable[Any]]) -> Any:
        async def inside() -> Any:
            async with AsyncClient(serving.url, key) as client:
                return await body(client)

        return asyncio.run(inside())

    return run


@pytest.fixture
def declared() -> Iterator[None]:
    before = dict(registry)
    yield
    registry.clear()
    registry.update(before)


PUBLIC = {
    name
    for name, made in vars(calls).items()
    if inspect.isfunction(made) and made.__module__ == calls.__name__ and not name.startswith("_")
} - {"following"}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_each_call_is_a_method_of_both_clients_with_its_own_words(kind: type) -> None:
    assert set(vars(kind)) >= PUBLIC
    assert len(PUBLIC) >= 18
    for name in PUBLIC:
        method, build = getattr(kind("http://x", "k"), name), getattr(calls, name)
        assert inspect.signature(method).parameters == inspect.signature(build).parameters
        assert method.__doc__ == build.__doc__
        assert method.__name__ == name


def test_the_asynchronous_client_does_all_that_the_other_does(looped: Any, database: Database) -> None:
    async def body(client: AsyncClient) -> None:
        task = await client.schedule("mock", {"a": 1}, run_at=FUTURE, task_key="k")
        assert (await client.get(task["id"]))["payload"] == {"a": 1}
        assert (await client.edit(task["id"], name="n", if_version=task["version"]))["name"] == "n"
        with pytest.raises(ClientError, match="412"):
            await client.edit(task["id"], name="m", if_version=task["version"])
        assert (await client.explain(task["id"]))["task_id"] == task["id"]
        assert (await client.pause(task["id"]))["state"] == "paused"
        assert (await client.resume(task["id"]))["state"] == "active"
        run = await client.run_now(task["id"])
        assert (await client.run(run["id"]))["task_id"] == task["id"]
        assert [r["id"] async for r in client.runs(task["id"])] == [run["id"]]
        assert [t["id"] async for t in client.tasks(task_key="k")] == [task["id"]]
        assert (await client.forecast(begin=FUTURE, buckets=1))["buckets"][0]["due"] == 1
        assert (await client.cancel(task["id"]))["state"] == "cancelled"
        await client.put_group("g", "mock", anchor_at=FUTURE, offsets_s=[-60, 60])
        await client.move_group("g", anchor_at=FUTURE + timedelta(hours=1))
        assert [m["offset_s"] for m in (await client.group("g"))["members"]] == [-60, 60]
        assert await client.control("pause", group_key="g") == {"matched": 2, "changed": 2, "refused": []}
        await client.cancel_group("g")
        daily = await client.schedule("mock", every_s=3600, start_at=datetime(2026, 1, 1, tzinfo=UTC))
        begin = database.now().replace(tzinfo=UTC)
        span = (begin - timedelta(hours=3), begin - timedelta(hours=1))
        assert (await client.backfill(daily["id"], *span, dry_run=True))["occurrences"] in (2, 3)
        with pytest.raises(ClientError, match="404"):
            await client.get(2**40)

    looped(body)


@pytest.mark.parametrize("way", ["sync", "async"])
def test_lists_and_bulk_orders_go_over_their_pages(
    way: str, client: Client, looped: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        insert(database, None, every_s=60)
    monkeypatch.setattr(calls, "PAGE", 2)

    async def listed(asynchronous: AsyncClient) -> list[int]:
        return [task["id"] async for task in asynchronous.tasks(handler="mock")]

    ids = looped(listed) if way == "async" else [task["id"] for task in client.tasks(handler="mock")]
    assert len(ids) == len(set(ids)) == 3
    asked: list[Any] = []

    def once(*given: Any) -> calls.Call[Any]:
        asked.append(given)
        return made(*given)

    made = calls._once
    monkeypatch.setattr(calls, "_once", once)
    talk = calls.control("pause", all=True)
    next(talk)
    talk.send({"matched": 1, "changed": 1, "refused": [{"id": 1, "why": "x"}], "next_cursor": "c"})
    with pytest.raises(StopIteration) as end:
        talk.send({"matched": 2, "changed": 1, "refused": [], "next_cursor": None})
    assert end.value.value == {"matched": 3, "changed": 2, "refused": [{"id": 1, "why": "x"}]}
    assert [given[2].get("cursor") for given in asked] == [None, "c"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_lost_answer_is_asked_for_again_with_the_same_key(
    way: str, client: Client, serving: Producer, key: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    def lose(response: httpx2.Response, parts: dict[str, Any]) -> None:
        sent.append((parts["headers"]["Idempotency-Key"], parts["json"]["run_at"], response.json()["id"]))
        if len(sent) == 1:
            raise httpx2.ReadError("cut")

    if way == "sync":
        real = client._http.request

        def request(**parts: Any) -> httpx2.Response:
            response = real(**parts)
            lose(response, parts)
            return response

        monkeypatch.setattr(client._http, "request", request)
        client.schedule("mock", in_s=60)
    else:

        async def body() -> None:
            async with AsyncClient(serving.url, key) as asynchronous:
                real = asynchronous._http.request

                async def request(**parts: Any) -> httpx2.Response:
                    response = await real(**parts)
                    lose(response, parts)
                    return response

                asynchronous._http.request = request  # type: ignore[method-assign]
                await asynchronous.schedule("mock", in_s=60)

        asyncio.run(body())
    assert len(sent) == 2
    assert sent[0] == sent[1]
    assert len(select(database, "SELECT id FROM tasks")) == 1


def test_the_requests_of_runs_and_of_many_tasks() -> None:
    many = calls.schedule_many([{"handler": "mock", "run_at": FUTURE}], atomic=False, idempotency_key="k")
    assert (many.method, many.path, many.headers) == ("POST", "/v1/tasks/bulk", {"Idempotency-Key": "k"})
    task = {"handler": "mock", "run_at": "2030-01-01T00:00:00+00:00"}
    assert many.document == {"tasks": [task], "atomic": False}
    assert calls.runs(7).path == "/v1/tasks/7/runs"
    assert (calls.runs(state="failed").path, calls.runs(state="failed").params) == (
        "/v1/runs", {"state": "failed", "limit": 200},
    )  # fmt: skip
    for call, path in ((calls.retry_run(7), "/v1/runs/7/retry"), (calls.cancel_run(7), "/v1/runs/7/cancel")):
        assert (call.method, call.path, set(call.headers)) == ("POST", path, {"Idempotency-Key"})


def test_many_tasks_are_registered_by_one_request(client: Client, database: Database) -> None:
    try:
        client.schedule_many([{"handler": "mock", "every_s": 60, "task_key": f"k{n}"} for n in range(3)])
    except ClientError as error:
        if error.status in (404, 405):
            pytest.skip("this version has no route for many")
        raise
    assert len(select(database, "SELECT id FROM tasks")) == 3


@pytest.mark.parametrize("way", ["sync", "async"])
def test_patience_has_an_end(way: str) -> None:
    url = "http://127.0.0.1:9"

    async def body() -> None:
        async with AsyncClient(url, "k", patience_s=0.0) as client:
            await client.get(2**40)

    with pytest.raises(ClientError, match="no answer") as caught:
        asyncio.run(body()) if way == "async" else Client(url, "k", patience_s=0.0).get(1)
    assert caught.value.status == 0


def test_the_types_are_those_of_the_answers(client: Client, database: Database) -> None:
    """Each name that a document has, and no other; and each value of the type that is promised."""
    daily = client.schedule("mock", {"a": 1}, cron="0 9 * * *", exclude=["2030-01-01"])
    run = client.run(client.run_now(daily["id"])["id"])
    group = client.put_group("g", "mock", anchor_at=FUTURE, offsets_s=[0])
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    listed = next(iter(client.tasks()))
    found: list[tuple[Any, Any]] = [
        (answers.Task, daily), (answers.Task, client.get(daily["id"])), (answers.Task, listed), (answers.TaskRun, run),
        (answers.TaskRun, next(iter(client.runs(daily["id"])))), (answers.Group, group),
        (answers.Task, group["members"][0]),
        (outlook.Explanation, client.explain(daily["id"])), (answers.Controlled, client.control("pause", all=True)),
        (outlook.Forecast, client.forecast()), (outlook.QueueStates, client.queues()),
        (answers.Backfilled, client.backfill(daily["id"], begin, begin, dry_run=True)),
    ]  # fmt: skip
    for kind, document in found:
        assert unfit(document, kind) == [], kind


def unfit(value: Any, kind: Any, where: str = "") -> list[str]:
    """Where the value is not what the type says."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        if not isinstance(value, dict):
            return [f"{where}: {value!r}"]
        hints = get_type_hints(kind)
        wrong = [f"{where}: without {name}" for name in kind.__required_keys__ - set(value)]
        wrong += [f"{where}: {name} is unknown" for name in set(value) - set(hints) - {"from"}]
        return wrong + [
            w for name in set(value) & set(hints) for w in unfit(value[name], hints[name], f"{where}.{name}")
        ]
    if origin is list and isinstance(value, list):
        return [w for i, item in enumerate(value) for w in unfit(item, arguments[0], f"{where}[{i}]")]
    if origin is Literal:
        return [] if value in arguments else [f"{where}: {value!r}"]
    if origin in (UnionType, Union):
        return min((unfit(value, one, where) for one in arguments), key=len)
    plain = (int, float) if kind is float else origin or kind
    return [] if kind is Any or isinstance(value, plain) else [f"{where}: {value!r}"]


def test_a_client_that_nobody_asks_needs_no_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("CLOCKJACK_URL", "CLOCKJACK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with Client() as client, pytest.raises(ValueError, match="CLOCKJACK_URL"):
        client.get(1)
    with pytest.raises(ValueError, match="CLOCKJACK_URL"):
        asyncio.run(AsyncClient().get(1))


@pytest.mark.usefixtures("declared")
def test_a_declared_handler_is_one_and_is_scheduled_by_its_name(client: Client) -> None:
    @client.task("mail.send", queue="mail", max_failures=3, payload={"from": "us"})
    def send(run: Run) -> Any:
        """Sends."""
        return run.payload

    assert registry["mail.send"] is inspect.unwrap(send)
    assert (send.__name__, send.__doc__, send.handler) == ("send", "Sends.", "mail.send")
    at = send.schedule({"to": "a"}, at=FUTURE, task_key="k")
    assert (at["handler"], at["queue"], at["max_failures"]) == ("mail.send", "mail", 3)
    assert (at["payload"], at["run_at"], at["task_key"]) == ({"to": "a"}, "2030-01-01T00:00:00.000000Z", "k")
    soon = send.delay(in_s=90, max_failures=1)
    due = datetime.fromisoformat(soon["run_at"]) - datetime.fromisoformat(soon["created_at"])
    assert timedelta(seconds=80) < due < timedelta(seconds=91)
    assert (soon["payload"], soon["max_failures"]) == ({"from": "us"}, 1)
    assert send.schedule(cron="0 9 * * *", timezone="Europe/Berlin")["cron"] == "0 9 * * *"
    with pytest.raises(ClientError, match="run_at"):
        send.schedule({"to": "nobody says when"})
    assert client.register() == []


@pytest.mark.usefixtures("declared")
def test_what_is_declared_with_a_schedule_is_registered_once_however_often(client: Client, looped: Any) -> None:
    @client.task("report.day", cron="0 18 * * *", timezone="Europe/Berlin")
    def report(run: Run) -> None: ...

    first, again = client.register(), client.register()
    assert [task["id"] for task in first] == [task["id"] for task in again]
    assert (first[0]["task_key"], first[0]["cron"], first[0]["timezone"]) == (
        "report.day",
        "0 18 * * *",
        "Europe/Berlin",
    )
    extra = report.delay({"day": "2030-01-01"})
    assert (extra["id"] != first[0]["id"], extra["task_key"], extra["cron"]) == (True, None, None)

    async def body(asynchronous: AsyncClient) -> Any:
        @asynchronous.task("report.week", rrule="FREQ=WEEKLY", task_key="weekly")
        async def week(run: Run) -> None: ...

        assert inspect.iscoroutinefunction(registry["report.week"])
        return await asynchronous.register(), await week.delay(in_s=5)

    registered, delayed = looped(body)
    assert (registered[0]["task_key"], delayed["task_key"]) == ("weekly", None)
    assert len(list(client.tasks())) == 4
