"""`python -m tests.bench.doors`: registrations a second and their latency, by door, beside the peers' own calls.

The environment says ROUNDS (3), EACH_S (1.2, seconds a measurement), DOORS (names by commas) and BENCH_JSON (a file).
In each round each door is measured at each concurrency, on emptied tables and an empty Redis, and what it says it
registered is counted there. One producer; no dispatcher runs, so nothing but registration is measured. The exit code
is 0 only if every measurement counts.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from redis import Redis

from deploy import servers
from deploy.up import environment
from tests.bench.installing import NotInstalled
from tests.bench.measure import percentile
from tests.bench.report import grid
from tests.bench.systems import Programs, _celery, _node, _rq
from tests.prove.stage import EMPTIED, ROOT, Stage, die_with_parent

CONCURRENCIES = (1, 32)


class Door(NamedTuple):
    """A way in: tasks a call, and what is called; of a peer also its program, and the key where Redis has its jobs."""

    name: str
    call: str
    size: int = 1
    program: Callable[[], Programs] | None = None
    key: str = ""


DOORS = (
    Door("sql", "INSERT; COMMIT"),
    Door("sql-1000", "INSERT of 1,000 rows; COMMIT", 1_000),
    Door("http", "POST /v1/tasks"),
    Door("http-100", "POST /v1/tasks/bulk", 100),
    Door("http-1000", "POST /v1/tasks/bulk", 1_000),
    Door("enqueue", "clockjack.enqueue(); COMMIT"),
    Door("client", "Client.schedule()"),
    Door("client-1000", "Client.schedule_many()", 1_000),
    Door("cli", "a process `clockjack add`"),
    Door("celery", "apply_async(eta=…)", 1, _celery, "bench"),
    Door("rq", "enqueue_at()", 1, _rq, "rq:scheduled:bench"),
    Door("bullmq", "add()", 1, _node, "bull:bench:delayed"),
    Door("bullmq-100", "addBulk()", 100, _node, "bull:bench:delayed"),
    Door("bullmq-1000", "addBulk()", 1_000, _node, "bull:bench:delayed"),
)


class Measured(NamedTuple):
    """One measurement."""

    rate_per_s: float
    p50_ms: float
    p99_ms: float
    calls: int


class Miscounted(Exception):
    """What was said to be registered is not what is there."""


class Field:
    """The servers, one producer, and a program for each door, which waits for its turn."""

    def __init__(self, doors: Iterable[Door]) -> None:
        self.stage = Stage()
        self.plain = servers.redis(Path(tempfile.mkdtemp(dir=self.stage.home)) / "redis", persistent=False)
        self.stage.empty()
        producer, _ = self.stage.cast(producer=1, consumer=1)  # so that somebody serves the handler
        self._url = f"http://127.0.0.1:{producer.port}"
        self.programs = {door: self._start(door) for door in doors}

    def close(self) -> None:
        """Everything that was started has ended."""
        for program in self.programs.values():
            program.kill()
            program.wait()
        self.plain.kill()
        self.stage.close()

    def measure(self, door: Door, concurrency: int, seconds: float) -> Measured:
        """One measurement on emptied servers; Miscounted where it does not count."""
        for table in EMPTIED:
            self.stage.sql(f"TRUNCATE TABLE {table}")
        with Redis.from_url(self.plain.url) as client:
            client.flushall()
            program = self.programs[door]
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(f"{concurrency} {seconds}\n")
            program.stdin.flush()
            line = program.stdout.readline()
            if not line:
                raise Miscounted(f"it ended with code {program.wait()}")
            told = json.loads(line)
            there = self._peers(client, door) if door.program else self.stage.one("SELECT COUNT(*) FROM tasks")
        if there != told["tasks"] + told["warm"]:
            raise Miscounted(f"{told['tasks']} and {told['warm']} to warm up were registered, and {there} are there")
        ms = sorted(us / 1000 for us in told["us"])
        rate = told["tasks"] / told["seconds"]
        return Measured(round(rate, 1), *(round(percentile(ms, share), 3) for share in (0.5, 0.99)), len(ms))

    def _peers(self, client: Any, door: Door) -> int:
        return int(client.llen(door.key) if door.name == "celery" else client.zcard(door.key))

    def _start(self, door: Door) -> "subprocess.Popen[str]":
        if door.program:
            programs = door.program()
            argv = [*(word for word in programs.register if word != "register"), "serve", str(door.size)]
            more = {**programs.env, "BENCH_REDIS": unquote(self.plain.url.removeprefix("unix://"))}
        else:
            argv = [sys.executable, "-m", "tests.bench.at_doors", door.name.partition("-")[0], str(door.size)]
            user = {"sql": "sql_producer", "enqueue": "python_producer"}.get(argv[3], "producer")
            more = {"CLOCKJACK_URL": self._url, "CLOCKJACK_API_KEY": self.stage.api_key}
            more |= {"CLOCKJACK_DATABASE_URL": self.stage.users[user]}
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=environment(self.stage.database.url, self.stage.redis.url, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )


def had(doors: Iterable[Door]) -> list[Door]:
    """The doors whose programs can be had here; the others are named on stderr."""
    found = []
    for door in doors:
        try:
            if door.program:
                door.program()
        except NotInstalled as error:
            print(f"{door.name} is left out: {error}", file=sys.stderr)
        else:
            found.append(door)
    return found


def play(doors: Sequence[Door], rounds: int, seconds: float) -> tuple[dict[Door, dict[int, list[Measured]]], bool]:
    """The measurements of each door by concurrency, round by round, and whether all of them count."""
    played: dict[Door, dict[int, list[Measured]]] = {door: {n: [] for n in CONCURRENCIES} for door in doors}
    sound = True
    with contextlib.closing(Field(doors)) as field:
        for n in range(1, rounds + 1):
            for door in doors:
                for concurrency in CONCURRENCIES:
                    try:
                        one = field.measure(door, concurrency, seconds)
                    except Exception as error:  # it must not cost the others their figures
                        said = str(error).partition("\n")[0][:500]
                        print(f"round {n} {door.name} at {concurrency} does not count: {said}", file=sys.stderr)
                        sound = False
                        continue
                    played[door][concurrency].append(one)
                    print(f"round {n} {door.name:12} at {concurrency:2} {one}", file=sys.stderr, flush=True)
    return {door: by for door, by in played.items() if all(by.values())}, sound


def median(rounds: Sequence[Measured], name: str) -> float:
    """The median over the rounds."""
    return statistics.median(getattr(one, name) for one in rounds)


def as_json(played: Mapping[Door, Mapping[int, Sequence[Measured]]]) -> dict[str, Any]:
    """{door: {call, size, durable, by_concurrency: {n: {rate_per_s, p50_ms, p99_ms, calls: a value a round}}}}."""
    return {
        door.name: {
            "call": door.call,
            "size": door.size,
            "durable": door.program is None,
            "by_concurrency": {
                str(n): {name: [getattr(one, name) for one in rounds] for name in Measured._fields}
                for n, rounds in by.items()
            },
        }
        for door, by in played.items()
    }


def table(played: Mapping[Door, Mapping[int, Sequence[Measured]]]) -> str:
    """Medians, in Markdown."""
    head = ["door", "a call", "tasks a call", "durable"]
    head += [f"{what} at {n}" for n in CONCURRENCIES for what in ("tasks/s", "p50 ms", "p99 ms")]
    rows = []
    for door, by in played.items():
        row: list[Any] = [door.name, door.call, door.size, "no" if door.program else "yes"]
        for n in CONCURRENCIES:
            row.append(round(median(by[n], "rate_per_s")))
            row += [f"{median(by[n], name):.2f}" for name in ("p50_ms", "p99_ms")]
        rows.append(row)
    return grid(head, rows)


def verdicts(played: Mapping[Door, Mapping[int, Sequence[Measured]]]) -> list[str]:
    """What is asked of these figures, where the doors in question were measured; each with holds or falls short."""
    found = {door.name: by for door, by in played.items()}
    lines = []
    if {"http", "sql"} <= set(found):
        ratio = median(found["http"][1], "p50_ms") / median(found["sql"][1], "p50_ms")
        lines.append((f"p50 of POST /v1/tasks at 1: {ratio:.2f} x that of INSERT and COMMIT, 3 allowed", ratio <= 3))
    for size in (100, 1_000):
        for n in CONCURRENCIES:
            if {f"http-{size}", f"bullmq-{size}"} <= set(found):
                ours, theirs = (median(found[f"{name}-{size}"][n], "rate_per_s") for name in ("http", "bullmq"))
                text = f"tasks/s of POST /v1/tasks/bulk of {size} at {n}: {ours / theirs:.2f} x BullMQ's addBulk"
                lines.append((f"{text}, 1 wanted", ours >= theirs))
    return [f"{text}: {'holds' if holds else 'falls short'}" for text, holds in lines]


def main() -> int:
    """The rounds that the environment asks for were played; 0 only if all measurements count."""
    rounds, seconds = int(os.environ.get("ROUNDS") or 3), float(os.environ.get("EACH_S") or 1.2)
    names = [name for name in (os.environ.get("DOORS") or "").split(",") if name]
    if unknown := set(names) - {door.name for door in DOORS}:
        known = ", ".join(door.name for door in DOORS)
        print(f"no door {', '.join(sorted(unknown))}; there are: {known}", file=sys.stderr)
        return 2
    doors = had(door for door in DOORS if not names or door.name in names)
    played, sound = play(doors, rounds, seconds)
    print(table(played), *verdicts(played), sep="\n")
    if file := os.environ.get("BENCH_JSON"):
        Path(file).write_text(json.dumps(as_json(played), indent=1) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
