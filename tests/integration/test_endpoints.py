"""Endpoints: their doors, what is kept of their secrets, and deliveries that receivers can verify."""

import base64
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.testclient import TestClient

from clockjack import cli, endpoints, telemetry, webhooks
from clockjack.ledger import keys
from clockjack.ledger.database import Database, to_us
from clockjack.queues import Queues
from clockjack.settings import Settings
from consumers import builtin, receivers
from consumers.delivery import Delivery
from consumers.receivers import Receivers
from producer.app import create_app
from tests.integration.life import make_due, owner, run_of, select, sql
from tests.integration.test_consumer import Bench

KEY, OTHER_KEY = b"k" * 32, b"o" * 32
LOCAL = ("127.0.0.0/8",)


class Receiver(BaseHTTPRequestHandler):
    seen: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    status: ClassVar[int] = 200
    headers_back: ClassVar[dict[str, str]] = {}
    body_back: ClassVar[bytes] = b""

    def do_POST(self) -> None:
        self.seen.append((dict(self.headers), self.rfile.read(int(self.headers.get("Content-Length", 0)))))
        self.send_response(self.status)
        for name, value in self.headers_back.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body_back)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[str]:
    Receiver.seen, Receiver.status, Receiver.headers_back, Receiver.body_back = [], 200, {}, b""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook"
    server.shutdown()
    server.server_close()


@pytest.fixture
def app(users: dict[str, str], redis_url: str) -> Any:
    return create_app(
        Settings(database_url=users["producer"], redis_url=redis_url, http_allow=LOCAL, secret_keys=(KEY,))
    )


@pytest.fixture
def bench(
    database: Database, queues: Queues, users: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A consumer with the handler `http`, as the user that a consumer is; every look at an endpoint is fresh."""
    monkeypatch.setattr(receivers, "TRUSTED_S", 0.0)
    bench = Bench(database, queues)
    bench.handle = delivery(users["consumer"], database)
    yield bench
    bench.engine.pool.close()


def delivery(url: str, database: Database, *secret_keys: bytes) -> Delivery:
    settings = Settings(database_url=url, redis_url="redis://none", http_allow=LOCAL, secret_keys=secret_keys or (KEY,))
    policy = webhooks.Policy.of(LOCAL)
    return Delivery(policy, database.clock.now_us, Receivers(settings))


def delivered(bench: Bench, payload: Any, **columns: Any) -> dict[str, Any]:
    """The run of a new task of the handler http, when its first attempt was written."""
    one = bench.due(handler="http", payload=json.dumps(payload), **columns)
    bench.until(lambda: run_of(bench.database, one)["attempt"] == 1 and bench.engine.empty)
    return run_of(bench.database, one)


def verified(secret: str, at: int = -1) -> Any:
    headers, body = Receiver.seen[at]
    return Webhook(secret).verify(body, {name.lower(): value for name, value in headers.items()})


def new(http: TestClient, url: str, **more: Any) -> dict[str, Any]:
    made = http.post("/v1/endpoints", json={"name": "orders", "url": url, **more})
    assert made.status_code == 201, made.text
    return dict(made.json())


def test_a_delivery_that_its_receiver_can_verify(http: TestClient, bench: Bench, hook: str) -> None:
    secret = new(http, hook, headers={"Authorization": "Bearer t0ken"})["secret"]
    body = {"type": "order.due", "data": {"id": 7, "ü": "☃"}}
    run = delivered(bench, {"endpoint": "orders", "body": body, "headers": {"X-A": "b", "authorization": "mine"}})
    assert (run["state"], json.loads(run["result"])) == ("succeeded", {"status": 200})
    assert verified(secret) == body
    headers, _ = Receiver.seen[0]
    run_key = f"{run['task_id']}-{to_us(run['due_at'])}"
    assert headers["webhook-id"] == headers["Idempotency-Key"] == run_key
    assert [v for k, v in headers.items() if k.lower() == "authorization"] == ["Bearer t0ken"]
    assert headers["X-A"] == "b"
    with pytest.raises(WebhookVerificationError):
        verified(endpoints.new_secret())


def test_each_attempt_has_its_own_time_and_the_same_id(http: TestClient, bench: Bench, hook: str) -> None:
    secret = new(http, hook)["secret"]
    Receiver.status = 500
    run = delivered(bench, {"endpoint": "orders", "body": 1}, backoff_s=0)
    Receiver.status = 200
    make_due(bench.database, run["id"])
    bench.dispatcher.look_step()
    bench.until(lambda: run_of(bench.database, run["task_id"])["state"] == "succeeded")
    assert len({headers["webhook-id"] for headers, _ in Receiver.seen}) == 1
    assert len(Receiver.seen) == 2
    assert verified(secret, 0) == verified(secret, 1) == 1


def test_while_a_secret_is_rotated_both_sign(http: TestClient, bench: Bench, hook: str) -> None:
    old = new(http, hook)["secret"]
    rotated = http.post("/v1/endpoints/orders/rotate", json={"overlap_s": 3600}).json()
    both = [old, rotated["secret"]]
    assert old != rotated["secret"]
    assert rotated["overlap_until"] is not None
    delivered(bench, {"endpoint": "orders", "body": 2})
    assert Receiver.seen[0][0]["webhook-signature"].count("v1,") == 2
    assert [verified(secret) for secret in both] == [2, 2]
    sql(bench.database, "UPDATE endpoints SET overlap_until = UTC_TIMESTAMP(6) - INTERVAL 1 SECOND")
    delivered(bench, {"endpoint": "orders", "body": 3})
    assert verified(both[1]) == 3
    with pytest.raises(WebhookVerificationError):
        verified(old)
    last = http.post("/v1/endpoints/orders/rotate", json={"overlap_s": 0}).json()
    delivered(bench, {"endpoint": "orders", "body": 4})
    assert (verified(last["secret"]), last["overlap_until"]) == (4, None)
    with pytest.raises(WebhookVerificationError):
        verified(both[1])


def test_a_secret_of_ones_own(http: TestClient, bench: Bench, hook: str) -> None:
    own = "whsec_" + base64.b64encode(b"my own secret of 24 bytes").decode()
    assert new(http, hook, secret=own)["secret"] == own
    delivered(bench, {"endpoint": "orders", "body": {}})
    assert verified(own) == {}


def test_what_is_secret_is_shown_once_and_sealed_at_rest(http: TestClient, database: Database, hook: str) -> None:
    made = new(http, hook, headers={"X-Token": "hush-hush"})
    assert made["header_names"] == ["X-Token"]
    for answer in (http.get("/v1/endpoints/orders"), http.get("/v1/endpoints")):
        assert answer.status_code == 200
        assert "secret" not in answer.text
        assert "hush" not in answer.text
        assert "sealed" not in answer.text
    row = select(database, "SELECT * FROM endpoints")[0]
    stored = " ".join(map(str, row.values()))
    assert made["secret"].removeprefix("whsec_") not in stored
    assert "hush" not in stored


def test_a_row_moved_under_another_name_does_not_open(http: TestClient, bench: Bench, hook: str) -> None:
    new(http, hook)
    sql(bench.database, "UPDATE endpoints SET name = 'stolen'")
    run = delivered(bench, {"endpoint": "stolen"})
    assert "cannot be opened" in run["error"]
    assert Receiver.seen == []


def test_namespaces_do_not_see_each_other(http: TestClient, bench: Bench, hook: str) -> None:
    new(http, hook)
    key = owner(bench.database).transaction(lambda c: keys.create(c, "other", "test"))
    other = {"Authorization": f"Bearer {key}"}
    assert http.get("/v1/endpoints", headers=other).json()["items"] == []
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("POST", "/disable"), ("PATCH", "")):
        answer = http.request(
            method, f"/v1/endpoints/orders{path}", headers=other, json={"success": "2xx"} if method == "PATCH" else None
        )
        assert answer.status_code == 404, (method, path)
    run = delivered(bench, {"endpoint": "orders"}, namespace="other")
    assert "no endpoint 'orders'" in run["error"]


def test_the_routes(http: TestClient, anonymous: TestClient, database: Database, hook: str) -> None:
    made = http.post("/v1/endpoints", json={"name": "orders", "url": hook})
    assert (made.headers["Location"], made.headers["Cache-Control"]) == ("/v1/endpoints/orders", "no-store")
    assert http.post("/v1/endpoints", json={"name": "orders", "url": hook}).status_code == 409
    bad = http.post("/v1/endpoints", json={"name": "b", "url": "http://10.0.0.1/"})
    assert (bad.status_code, bad.json()["errors"][0]["pointer"]) == (422, "#/url")
    edited = http.patch("/v1/endpoints/orders", json={"success": "2xx, 409", "headers": {"A": "b"}}).json()
    assert (edited["success"], edited["header_names"], edited["version"]) == ("2xx,409", ["A"], 2)
    assert http.patch("/v1/endpoints/orders", json={"name": "x"}).status_code == 422
    assert http.post("/v1/endpoints/orders/disable").json()["state"] == "disabled"
    assert http.post("/v1/endpoints/orders/enable").json()["state"] == "enabled"
    assert http.post("/v1/endpoints/orders/rotate", json={"overlap_s": -1}).status_code == 422
    assert http.post("/v1/endpoints/orders/rotate").status_code == 200
    for n in range(3):
        http.post("/v1/endpoints", json={"name": f"e{n}", "url": hook})
    page = http.get("/v1/endpoints?limit=2").json()
    rest = http.get(f"/v1/endpoints?limit=2&cursor={page['next_cursor']}").json()
    assert [e["name"] for e in page["items"] + rest["items"]] == ["e2", "e1", "e0", "orders"]
    assert http.delete("/v1/endpoints/orders").status_code == 204
    assert http.delete("/v1/endpoints/orders").status_code == 404
    assert http.get("/v1/endpoints/orders").status_code == 404
    assert http.get("/v1/endpoints", headers={"Authorization": "Bearer cj_no_key"}).status_code == 401


def test_without_a_key_nothing_is_made(database: Database, users: dict[str, str], redis_url: str, hook: str) -> None:
    key = owner(database).transaction(lambda c: keys.create(c, "default", "test"))
    bare = create_app(Settings(database_url=users["producer"], redis_url=redis_url, http_allow=LOCAL))
    with TestClient(bare) as client:
        refused = client.post(
            "/v1/endpoints", json={"name": "a", "url": hook}, headers={"Authorization": f"Bearer {key}"}
        )
    assert (refused.status_code, "CLOCKJACK_SECRET_KEYS" in refused.text) == (409, True)
    assert select(database, "SELECT id FROM endpoints") == []


def test_the_commands(
    database: Database,
    bench: Bench,
    users: dict[str, str],
    redis_url: str,
    hook: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CLOCKJACK_DATABASE_URL", users["producer"])
    monkeypatch.setenv("CLOCKJACK_REDIS_URL", redis_url)
    monkeypatch.setenv("CLOCKJACK_HTTP_ALLOW", LOCAL[0])
    monkeypatch.setenv("CLOCKJACK_SECRET_KEYS", base64.b64encode(KEY).decode())

    def said(*argv: str, code: int = 0) -> str:
        assert cli.run(["endpoints", *argv]) == code
        out = capsys.readouterr()
        return out.out if code == 0 else out.err

    first = said("create", "orders", hook, "--header", "A: b").strip()
    assert first.startswith("whsec_")
    assert json.loads(said("list", "--json"))[0]["header_names"] == ["A"]
    assert "url" in said("create", "b", "http://10.0.0.1/", code=2)
    assert "headers" in said("create", "b", hook, "--header", "nothing", code=2)
    assert "of this name" in said("create", "orders", hook, code=1)
    second = said("rotate", "orders", "--overlap", "1h").strip()
    delivered(bench, {"endpoint": "orders", "body": 1})
    assert verified(first) == verified(second) == 1
    said("disable", "orders")
    assert "disabled by hand" in said("list", "--json")
    said("enable", "orders")
    # another key: it comes first, everything is sealed anew, then the old one can go
    both = ",".join(base64.b64encode(key).decode() for key in (OTHER_KEY, KEY))
    monkeypatch.setenv("CLOCKJACK_SECRET_KEYS", both)
    assert said("reseal") == "sealed 1 endpoints anew\n"
    bench.handle = delivery(users["consumer"], database, OTHER_KEY)
    delivered(bench, {"endpoint": "orders", "body": 2})
    assert verified(second) == 2
    said("delete", "orders")
    assert "no endpoint" in said("delete", "orders", code=1)
    assert "no endpoint" in said("rotate", "orders", code=1)


def test_the_endpoints_rule_says_what_a_success_is(http: TestClient, bench: Bench, hook: str) -> None:
    new(http, hook, success="200,409")
    Receiver.status, Receiver.body_back = 409, b"known already"
    run = delivered(bench, {"endpoint": "orders"})
    assert (run["state"], json.loads(run["result"])) == ("succeeded", {"status": 409, "body": "known already"})
    Receiver.status = 201
    assert "answered 201" in delivered(bench, {"endpoint": "orders"})["error"]


def test_the_answers_body_is_kept_up_to_a_limit(bench: Bench, hook: str) -> None:
    Receiver.body_back = "ä".encode() * 5_000 + b"\xff"
    run = delivered(bench, {"url": hook})
    assert json.loads(run["result"]) == {"status": 200, "body": "ä" * 1_024}
    Receiver.status = 500
    run = delivered(bench, {"url": hook})
    assert run["error"].endswith("answered 500: " + "ä" * 500)
    Receiver.status, Receiver.body_back = 200, b"\xff" * 5_000  # each byte takes six in JSON
    assert delivered(bench, {"url": hook})["state"] == "succeeded"


@pytest.mark.parametrize(("said", "low", "high"), [("700", 690, 700), ("999999", 3_590, 3_600)])
def test_retry_after_is_taken_at_its_word_up_to_an_hour(
    bench: Bench, hook: str, said: str, low: int, high: int
) -> None:
    Receiver.status, Receiver.headers_back = 503, {"Retry-After": said}
    run = delivered(bench, {"url": hook}, backoff_s=0)
    assert (run["state"], run["failures"]) == ("ready", 1)
    wait = select(bench.database, "SELECT TIMESTAMPDIFF(SECOND, UTC_TIMESTAMP(6), wake_at) AS s FROM runs")[0]["s"]
    assert low <= wait <= high


def test_410_disables_the_endpoint_and_its_runs_fail_without_a_call(
    http: TestClient, bench: Bench, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    secret = new(http, hook, headers={"X-T": "hush"})["secret"]
    Receiver.status = 410
    before = telemetry.ENDPOINTS_DISABLED._value.get()
    with caplog.at_level(logging.INFO):
        run = delivered(bench, {"endpoint": "orders", "body": "pay-load"})
    assert (run["state"], run["reason"], run["failures"]) == ("failed", "failed", 1)
    assert "answered 410: the endpoint 'orders' is disabled now" in run["error"]
    shown = http.get("/v1/endpoints/orders").json()
    assert (shown["state"], shown["reason"]) == ("disabled", "its receiver answered 410 Gone")
    assert telemetry.ENDPOINTS_DISABLED._value.get() == before + 1
    told = [r for r in caplog.records if getattr(r, "action", "") == "endpoint_disabled"]
    assert [(r.levelname, r.endpoint) for r in told] == [("ERROR", "orders")]  # type: ignore[attr-defined]
    logged = " ".join(str(r.__dict__) for r in caplog.records)
    assert not any(word in logged for word in (secret, "hush", "pay-load"))
    run = delivered(bench, {"endpoint": "orders"})
    assert (run["state"], len(Receiver.seen)) == ("failed", 1)
    assert "is disabled (its receiver answered 410 Gone)" in run["error"]
    http.post("/v1/endpoints/orders/enable")
    Receiver.status = 200
    assert delivered(bench, {"endpoint": "orders"})["state"] == "succeeded"


def test_a_410_that_comes_late_does_not_disable_what_was_changed_meanwhile(
    http: TestClient, bench: Bench, hook: str, users: dict[str, str]
) -> None:
    new(http, hook)
    known = Receivers(Settings(database_url=users["consumer"], redis_url="redis://none", secret_keys=(KEY,)))
    called = known.find("default", "orders")
    assert called is not None
    http.patch("/v1/endpoints/orders", json={"url": hook + "/moved"})
    known.gone("default", called)
    assert http.get("/v1/endpoints/orders").json()["state"] == "enabled"


def test_a_plain_url_that_is_gone_is_over_at_once(bench: Bench, hook: str) -> None:
    Receiver.status = 410
    run = delivered(bench, {"url": hook}, max_failures=5)
    assert (run["state"], run["failures"]) == ("failed", 1)


def test_an_endpoint_is_read_once_a_second(
    http: TestClient, database: Database, users: dict[str, str], hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    new(http, hook)
    known = Receivers(Settings(database_url=users["consumer"], redis_url="redis://none", secret_keys=(KEY,)))
    assert known.find("default", "orders").state == "enabled"  # type: ignore[union-attr]
    http.post("/v1/endpoints/orders/disable")
    assert known.find("default", "orders").state == "enabled"  # type: ignore[union-attr]
    monkeypatch.setattr(receivers, "TRUSTED_S", 0.0)
    assert known.find("default", "orders").state == "disabled"  # type: ignore[union-attr]


def test_what_is_known_is_called_while_mysql_is_slow(
    http: TestClient, database: Database, users: dict[str, str], hook: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("orders", "others"):
        assert http.post("/v1/endpoints", json={"name": name, "url": hook}).status_code == 201
    known = Receivers(Settings(database_url=users["consumer"], redis_url="redis://none", secret_keys=(KEY,)))
    monkeypatch.setattr(receivers, "TRUSTED_S", 60.0)
    assert known.find("default", "orders") is not None
    asked, answered = threading.Event(), threading.Event()
    get = receivers.ledger.get

    def slow(*args: Any) -> Any:
        asked.set()
        answered.wait(20)
        return get(*args)

    monkeypatch.setattr(receivers.ledger, "get", slow)
    waiting = threading.Thread(target=known.find, args=("default", "others"))
    waiting.start()
    try:
        assert asked.wait(10)
        calling = threading.Thread(target=known.find, args=("default", "orders"))
        calling.start()
        calling.join(10)
        assert not calling.is_alive(), "who calls what is known waits for what MySQL says of another"
    finally:
        answered.set()
        waiting.join()
    assert known.find("default", "others").state == "enabled"  # type: ignore[union-attr]


def test_a_lost_answer_is_given_again_with_its_secret(http: TestClient, database: Database, hook: str) -> None:
    sent = {"name": "orders", "url": hook}
    key = {"Idempotency-Key": "a"}
    made, again = (http.post("/v1/endpoints", json=sent, headers=key) for _ in range(2))
    assert (made.status_code, again.status_code) == (201, 201)
    assert (again.json(), again.headers["ETag"]) == (made.json(), made.headers["ETag"])
    assert (again.headers["Location"], again.headers["Cache-Control"]) == ("/v1/endpoints/orders", "no-store")
    assert again.headers["Idempotency-Replayed"] == "true"
    assert made.json()["secret"].startswith("whsec_")
    kept = select(database, "SELECT answer FROM idempotency_keys")[0]["answer"]
    assert made.json()["secret"] not in kept, "a secret is nowhere but sealed"
    other = http.post("/v1/endpoints", json=sent | {"success": "200"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-key-reused")
    assert http.post("/v1/endpoints", json=sent, headers={"Idempotency-Key": "b"}).status_code == 409


def test_every_consumer_has_this_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "registry", found := {})
    builtin.install(Settings(database_url="mysql://x", redis_url="redis://x", builtin=("http",)), lambda: 0)
    assert {name: type(handler) for name, handler in found.items()} == {"http": Delivery}
