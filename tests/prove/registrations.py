"""`python -m tests.prove.registrations [--seed N] [--small]`: no acknowledged registration is lost or made twice.

Clients register through two producers, one task a request or many, and send what had no answer again, as
`clockjack.Client` does it: with the same Idempotency-Key. Meanwhile producers and the database are killed by kill -9;
the seed decides who, after how many registrations, and for how long the database stays away. Then the tables are read.
"""

import argparse
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from clockjack import Client
from tests.prove.proofs import Proof, main
from tests.prove.stage import Stage, until

NUMBER, SMALL = 20_000, 2_000
CLIENTS, PRODUCERS = 8, 2
LONGEST_S, PATIENCE_S = 150.0, 60.0
RUN_AT = datetime(2100, 1, 1, tzinfo=UTC)
MANY = 200  # tasks a request, at most


class Kill(NamedTuple):
    """Who is killed when so many are acknowledged: a producer, or the database for a while."""

    at: int
    who: str
    away_s: float


def plan(seed: int, number: int) -> tuple[list[Kill], list[list[int]]]:
    """What is killed when, and of each client how many tasks each of its requests has: half are registered alone."""
    rng = random.Random(seed)
    kinds = ["database"] * 6 + ["producer"] * 18 if number == NUMBER else ["database", "producer", "producer"]
    rng.shuffle(kinds)
    at = sorted(rng.randrange(number // 50, number * 19 // 20) for _ in kinds)
    kills = [Kill(n, kind, rng.uniform(0, 0.8)) for n, kind in zip(at, kinds, strict=True)]
    sizes = [1] * (number // 2)
    while left := number - sum(sizes):
        sizes.append(min(left, rng.randint(2, MANY)))
    rng.shuffle(sizes)
    return kills, [sizes[n::CLIENTS] for n in range(CLIENTS)]


class Registering:
    """What clients asked for and what they were told, by all of them together."""

    def __init__(self) -> None:
        self.told: dict[int, str] = {}  # the names of tasks, by the ids that were acknowledged
        self.doubly_told = 0
        self.sent: Counter[str] = Counter()
        self.replayed = 0
        self.errors: list[str] = []
        self._lock = threading.Lock()

    def client(self, url: str, api_key: str, who: int, sizes: list[int]) -> None:
        """One client's requests, one after the other; each name is asked for by one request alone."""
        rng = random.Random(who)
        try:
            with Client(url, api_key, patience_s=PATIENCE_S) as client:
                client._http.event_hooks = {"request": [self._sent], "response": [self._answered]}
                for n, size in enumerate(sizes):
                    wanted = list(self._tasks(f"{who}-{n}", size, rng))
                    if size == 1:
                        self._heard([client.schedule(**wanted[0])], wanted)
                    else:
                        answer = client.schedule_many(wanted, atomic=rng.random() < 0.5)
                        self._heard(answer["items"], wanted)
        except Exception as error:
            self.errors.append(f"client {who}: {type(error).__name__}: {error}"[:300])

    def _tasks(self, name: str, size: int, rng: random.Random) -> Iterator[dict[str, Any]]:
        for i in range(size):
            own = f"{name}-{i}"
            key = {"task_key": own} if rng.random() < 0.3 else {}
            yield {"handler": "mock", "payload": {"name": own}, "name": own, "run_at": RUN_AT, **key}

    def _heard(self, items: list[Any], wanted: list[dict[str, Any]]) -> None:
        with self._lock:
            for item, task in zip(items, wanted, strict=True):
                self.doubly_told += item["id"] in self.told
                self.told[item["id"]] = task["name"]

    def _sent(self, request: Any) -> None:
        with self._lock:
            self.sent[request.headers["idempotency-key"]] += 1

    def _answered(self, response: Any) -> None:
        with self._lock:
            self.replayed += response.headers.get("idempotency-replayed") == "true"


def killed(stage: Stage, seed: int, number: int) -> tuple[str, bool]:
    """Registrations under kills, judged by the tables after the database was killed once more."""
    kills, shares = plan(seed, number)
    producers = stage.cast(producer=PRODUCERS)
    ports, done, begun = [one.port for one in producers], Registering(), time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as pool:
        working = [
            pool.submit(done.client, f"http://127.0.0.1:{ports[n % PRODUCERS]}", stage.api_key, n, share)
            for n, share in enumerate(shares)
        ]
        for kill in kills:
            if not until(lambda kill=kill: len(done.told) >= kill.at or done.errors, LONGEST_S, 0.002) or done.errors:
                break
            _carry_out(stage, kill, ports, random.Random(f"{seed} {kill.at}"))
        ended = until(lambda: all(one.done() for one in working), LONGEST_S - (time.monotonic() - begun))
        spent_s = time.monotonic() - begun
        stage.end()  # who has not ended by now ends with its patience
    stage.database.kill()
    stage.database.start()
    figure, sound = judged(stage, done)
    dead = Counter(kill.who for kill in kills)
    again = sum(n > 1 for n in done.sent.values())
    return (
        f"seed {seed}: {len(done.told)} acknowledged in {spent_s:.0f} s through {dead['producer']} kills of producers"
        f" and {dead['database']} of the database; {len(done.sent)} requests, {again} sent again, {done.replayed} of"
        f" them answered from a COMMIT before; {figure}{''.join(done.errors[:1])}"
    ), sound and ended and not done.errors and len(done.told) == number and again > 0 and done.replayed > 0


def _carry_out(stage: Stage, kill: Kill, ports: list[int], rng: random.Random) -> None:
    if kill.who == "database":
        stage.database.kill()
        time.sleep(kill.away_s)
        stage.database.start()
        return
    port = rng.choice(ports)
    victim = next(one for one in reversed(stage.processes) if one.port == port)
    victim.send(signal.SIGKILL)
    victim.ended(10)
    stage.start("producer", port=port, wait=False)


def judged(stage: Stage, done: Registering) -> tuple[str, bool]:
    """What the tables say to what clients were told."""
    until(lambda: stage.ledger.now(), 10)
    known = {
        row[0]: (row[1], row[2], row[3])
        for row in stage.sql("SELECT id, name, JSON_UNQUOTE(JSON_EXTRACT(payload, '$.name')), task_key FROM tasks")
    }
    lost = sum(task_id not in known for task_id in done.told)
    names = Counter(name for name, *_ in known.values())
    twice = sum(n - 1 for n in names.values())
    unknown = len(known.keys() - done.told.keys())
    other = sum(
        known[i][0] != name or known[i][1] != name or known[i][2] not in (None, name)
        for i, name in done.told.items()
        if i in known
    )
    events = stage.one("SELECT COUNT(*) FROM task_events WHERE action = 'registered' AND version = 1")
    odd = stage.one("SELECT COUNT(*) FROM task_events") - events + abs(events - len(known))
    answers = stage.one("SELECT COUNT(*) FROM idempotency_keys")
    wrong = other + odd + abs(answers - len(done.sent)) + done.doubly_told
    figure = (
        f"in the tables {len(known)}; acknowledged and lost {lost}, registered twice {twice}, registered and not"
        f" acknowledged {unknown}, other values, events or keys than asked for {wrong}"
    )
    return figure, not (lost or twice or unknown or wrong)


def proof(seed: int, *, small: bool) -> Proof:
    """The proof, or a try of it with a small number."""
    number = SMALL if small else NUMBER
    what = f"{number:,} registrations, one or many a request, through kill -9 of producers and the database"
    return Proof("registrations", f"{'small, no proof: ' if small else ''}{what}", lambda s: killed(s, seed, number))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.prove.registrations")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    sys.exit(main([proof(asked.seed, small=asked.small)], []))
