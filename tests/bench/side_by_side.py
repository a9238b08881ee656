"""`python -m tests.bench.side_by_side`: N jobs due at one instant, Clockjack and its peers in interleaved rounds.

The environment says N (10,000), ROUNDS (5), PEERS (names by commas) and BENCH_JSON (a file for the figures).
Every system has the same handler (tests.bench.mark), is registered at least 15 s before due, and is clocked alike:
rate = N / (last start - due). The exit code is 0 only if every run was executed exactly once, and none early.
"""

import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deploy import servers
from tests.bench.clockjack_side import LEAD_S, Broken, ahead, cast, finished, wait_for
from tests.bench.installing import NotInstalled
from tests.bench.systems import SYSTEMS, Peer, Programs, System
from tests.prove.counting import SETTLE_S, Count, Effects, count
from tests.prove.stage import Stage

MARGIN_S, BOOT_S = 2, 3
CONSUMERS = 3  # one more than cores: while one waits for its COMMIT, another works


class Round(NamedTuple):
    """One system's figures of one round."""

    rate_per_s: float
    max_lateness_ms: float
    led_s: float


class Field:
    """The servers of all systems, and one round after the other on them."""

    def __init__(self) -> None:
        self.stage = Stage()
        self.home = Path(tempfile.mkdtemp(prefix="bench-", dir=self.stage.home))
        self.plain = servers.redis(self.home / "redis", persistent=False)

    def close(self) -> None:
        """Everything that was started has ended."""
        self.plain.kill()
        self.stage.close()

    def round(self, system: System, programs: Programs | None, number: int) -> Round:
        """One round; Broken when it does not count. A registration that took too long is made again, further ahead."""
        for margin_s in (MARGIN_S, 10 * MARGIN_S, 50 * MARGIN_S):
            self.stage.empty()
            lead_s = LEAD_S + margin_s + number / system.a_second
            try:
                done, led_s = self._peer(system, programs, number, lead_s) if programs else self._ours(number, lead_s)
            except TooLate:
                continue
            if not done.once_each:
                raise Broken(str(done))
            return Round(round(number / done.late_s, 1), round(done.late_s * 1000, 2), round(led_s, 1))
        raise Broken("it cannot be registered ahead")

    def _ours(self, number: int, lead_s: float) -> tuple[Count, float]:
        cast(self.stage, consumers=CONSUMERS)
        due_us = ahead(lead_s)
        expected = self.stage.register([due_us] * number, handler="bench.mark")
        led_s = _led_s(due_us)
        wait_for(self.stage, number, due_us, _patience_s(number))
        _, done = finished(self.stage, expected)
        self.stage.end()
        return done, led_s

    def _peer(self, system: System, programs: Programs, number: int, lead_s: float) -> tuple[Count, float]:
        redis = self.stage.redis if system.aof else self.plain
        for client in (self.stage.redis.url, self.plain.url):
            _flush(client)
        self.stage.sql("DROP TABLE IF EXISTS bench_apscheduler")
        log = self.stage.home / f"{self.stage.effects.name}-{system.name}.log"
        peer = Peer(programs, self.stage.effects, redis.url, self.stage.database.url, log)
        try:
            if not system.late:
                peer.work()
                time.sleep(BOOT_S)
            due_us = ahead(lead_s)
            peer.register(number, due_us)
            led_s = _led_s(due_us)
            if system.late:
                peer.work()
            there = wait_for(self.stage, number, due_us, _patience_s(number))
            time.sleep(SETTLE_S)
            if not there or not peer.alive:
                print(f"{system.name} said: {peer.said()}", file=sys.stderr)
        finally:
            peer.end()
        return count(Effects(self.stage.effects), {str(i): due_us for i in range(number)}), led_s


class TooLate(Exception):
    """The registration ended less than 15 s before due."""


def _led_s(due_us: int) -> float:
    led_s = due_us / 1e6 - time.time()
    if led_s < LEAD_S:
        raise TooLate
    return led_s


def _patience_s(number: int) -> float:
    return 30 + number / 100


def _flush(url: str) -> None:
    from redis import Redis

    with Redis.from_url(url) as client:
        client.flushall()


def install(systems: Iterable[System]) -> dict[str, Programs | None]:
    """The programs of each system that can be had here; those that cannot are named on stderr."""
    had: dict[str, Programs | None] = {}
    for system in systems:
        try:
            had[system.name] = system.install() if system.install else None
        except NotInstalled as error:
            print(f"{system.name} is left out: {error}", file=sys.stderr)
    return had


def play(names: Iterable[str], number: int, rounds: int) -> tuple[dict[str, list[Round]], bool]:
    """The rounds of each system that can be had here, and whether all of them count."""
    systems = [system for system in SYSTEMS if system.name in set(names)]
    had = install(systems)
    played: dict[str, list[Round]] = {name: [] for name in had}
    sound = True
    with contextlib.closing(Field()) as field:
        for n in range(1, rounds + 1):
            for system in systems:
                if system.name not in had:
                    continue
                try:
                    one = field.round(system, had[system.name], number)
                except Exception as error:  # a peer's failure must not cost the others their figures
                    said = str(error).partition("\n")[0][:500]
                    print(f"round {n} {system.name} does not count: {said}", file=sys.stderr, flush=True)
                    sound = False
                    continue
                played[system.name].append(one)
                print(f"round {n} {system.name:11} {one.rate_per_s:8.0f}/s", file=sys.stderr, flush=True)
    return {name: figures for name, figures in played.items() if figures}, sound


def as_json(played: Mapping[str, list[Round]], wanted: Iterable[str]) -> dict[str, Any]:
    """{system: {rate_per_s, max_lateness_ms, durable}} of the wanted ones."""
    durable = {system.name: system.durable for system in SYSTEMS}
    return {
        name: {
            "rate_per_s": [one.rate_per_s for one in rounds],
            "max_lateness_ms": [one.max_lateness_ms for one in rounds],
            "durable": durable[name],
        }
        for name, rounds in played.items()
        if name in set(wanted)
    }


def table(played: Mapping[str, list[Round]], number: int) -> str:
    """Medians, and how many times as fast as each peer Clockjack is, in Markdown."""
    durable = {system.name: system.durable for system in SYSTEMS}
    ours = statistics.median(r.rate_per_s for r in played["clockjack"]) if "clockjack" in played else None
    lines = [
        f"| {number:,} due at one instant | durable | rounds | rate/s, median | rates | last start | Clockjack is |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rounds in played.items():
        rates = [r.rate_per_s for r in rounds]
        rate, late_ms = statistics.median(rates), statistics.median(r.max_lateness_ms for r in rounds)
        ratio = f"{ours / rate:.2f} ×" if ours and name != "clockjack" else ""
        lines.append(
            f"| {name} | {'yes' if durable[name] else 'no'} | {len(rounds)} | {rate:,.0f} |"
            f" {min(rates):,.0f} to {max(rates):,.0f} | due + {late_ms:,.0f} ms | {ratio} |"
        )
    return "\n".join(lines)


def main() -> int:
    """The rounds that the environment asks for were played; 0 only if all of them count."""
    number, rounds = int(os.environ.get("N") or 10_000), int(os.environ.get("ROUNDS") or 5)
    known = [system.name for system in SYSTEMS]
    asked = [name for name in (os.environ.get("PEERS") or "").split(",") if name]
    if unknown := set(asked) - set(known):
        print(f"no system {', '.join(sorted(unknown))}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    played, sound = play(asked or [system.name for system in SYSTEMS if not system.variant], number, rounds)
    print(table(played, number))
    if file := os.environ.get("BENCH_JSON"):
        wanted = asked or [system.name for system in SYSTEMS if not system.aside]
        Path(file).write_text(json.dumps(as_json(played, wanted), indent=1) + "\n")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
