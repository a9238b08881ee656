"""The nemesis does the faults of the plan, one after the other, heals each, and proves that each happened.

An act gets the world and the fault; it yields once, when the fault is there, and goes on when it is to be healed. What
it returns in the end says whether it fired, and by what that is known.
"""

import contextlib
import json
import random
import signal
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pymysql

from tests.chaos.clients import Client, now_us
from tests.chaos.handling import handler, leak
from tests.chaos.plan import Fault, Step
from tests.chaos.world import AT_WORK_S, World
from tests.prove.stage import Process, until

Act = Generator[None, None, tuple[bool, str]]


class Nemesis:
    """Does the plan's faults from begin_us on; faults.jsonl has what happened."""

    def __init__(self, world: World, client: Client, path: Path, seed: int) -> None:
        self.world, self.client, self.done = world, client, list[dict[str, Any]]()
        self._file, self._rng = open(path, "a"), random.Random(f"{seed}/nemesis")  # noqa: SIM115

    def run(self, faults: list[Fault], begin_us: int, load_s: float) -> None:
        """All faults have come and gone, and everything is healed; one that came after the load proves nothing."""
        for fault in faults:
            time.sleep(max(0.0, begin_us / 1e6 + fault.at_s - time.time()))
            if now_us() > begin_us + (load_s - 2) * 1e6:
                self.tell(fault.name, target(fault), now_us(), False, "too late: the load is over")
            else:
                self.one(fault)
        self.heal()

    def one(self, fault: Fault) -> None:
        """The fault has come and gone."""
        act = ACTS[str(fault.options.get("act", fault.name))](self, fault)
        begun_us, fired, detail = now_us(), False, "it never came"
        try:
            next(act)
            time.sleep(fault.seconds)
            try:
                next(act)
            except StopIteration as end:
                fired, detail = end.value
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
            self.heal()
        self.tell(fault.name, target(fault), begun_us, fired, detail, exempt=fault.options.get("exempt"))

    def tell(self, name: str, at: str, from_us: int, fired: bool, detail: str, **more: Any) -> None:
        """One more line of faults.jsonl."""
        line = {"name": name, "target": at, "from_us": from_us, "until_us": now_us(), "fired": fired, "detail": detail}
        line |= {name: value for name, value in more.items() if value is not None}
        self.done.append(line)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        seconds = (line["until_us"] - from_us) / 1e6
        print(f"  {'' if fired else 'NOT FIRED '}{name} {at}: {detail} ({seconds:.1f} s)", flush=True)

    def heal(self) -> None:
        """Every edge passes, every server and process lives and works."""
        world = self.world
        world.order("set", list(world.edges), mode="pass")
        world.order("commits", list(world.edges), where=None, count=0)
        world.order("trip", list(world.edges), trip=None)
        for server in (world.database, world.redis):
            if server.pid:
                server.resume()
            else:
                server.start()
        for place in world.places.values():
            if place.process:
                place.process.send(signal.SIGCONT)
        for name in world.places:
            world.wait_at_work(name, AT_WORK_S)


def target(fault: Fault) -> str:
    """What it hits, as faults.jsonl calls it."""
    edge = fault.options.get("edge")
    return f"edge {edge}" if edge else str(fault.options.get("at", ""))


def at_work(world: World, name: str) -> Process:
    """The process at this place; a consumer has a run in hand that began a while ago and will last."""
    process = world.live_process(name)
    if name.startswith("consumer"):
        held = (
            "SELECT COUNT(*) FROM runs r JOIN tasks t ON t.id = r.task_id"
            " WHERE r.state = 'running' AND r.worker LIKE %s AND t.payload LIKE '%%sleep_ms%%'"
            " AND r.started_at > UTC_TIMESTAMP(6) - INTERVAL 2 SECOND"
            " AND r.started_at < UTC_TIMESTAMP(6) - INTERVAL 0.3 SECOND"
        )
        until(lambda: world.sql(held, f"%-{process.pid}-%")[0][0], 15, 0.1)
    return process


def kill(nemesis: Nemesis, fault: Fault) -> Act:
    """kill -9; the place lives again after `seconds`."""
    world, name = nemesis.world, fault.options["at"]
    at_work(world, name)
    pid = world.kill(name, restart_after_s=fault.seconds)
    yield
    back = world.wait_at_work(name, AT_WORK_S, but=pid)
    codes = [death.code for death in world.deaths if death.pid == pid]
    return back and codes == [-signal.SIGKILL], f"process {pid} ended with {codes}, another one at work: {back}"


def freeze(nemesis: Nemesis, fault: Fault) -> Act:
    """SIGSTOP for `seconds`."""
    process = at_work(nemesis.world, fault.options["at"])
    process.send(signal.SIGSTOP)
    was = until(lambda: process.frozen, 2, 0.01)
    yield
    was = was and process.frozen
    process.send(signal.SIGCONT)
    return was, f"process {process.pid} stood still: {was}"


def freeze_full_hands(nemesis: Nemesis, fault: Fault) -> Act:
    """SIGSTOP for longer than a first lease, of a consumer with many slow handlers that have just begun."""
    due_s = time.monotonic() + 6
    for n in range(24):
        key = f"{fault.name}-{n}-{now_us()}"
        value = {"handler": "chaos", "payload": {"task_key": key, "sleep_ms": 5000}, "timeout_s": 20, "backoff_s": 1}
        value["run_in_s"] = max(0.0, due_s - time.monotonic())
        nemesis.client.do(Step(0, nemesis.client.name, key, "register", value))
    time.sleep(max(0.0, due_s + 0.6 - time.monotonic()))
    return (yield from freeze(nemesis, fault))


def trip(nemesis: Nemesis, fault: Fault) -> Act:
    """The process gets a signal in the middle of a transaction: when this statement passes its edge."""
    world, name, number = nemesis.world, fault.options["at"], signal.Signals(fault.options["signal"])
    process, edge = world.live_process(name), f"{name}>mysql"
    before = world.order("stats")[edge].get("tripped", 0)
    world.order("trip", [edge], trip={"text": fault.options["statement"], "pid": process.pid, "signal": int(number)})
    until(lambda: world.order("stats")[edge].get("tripped", 0) > before, 15, 0.05)
    yield
    tripped = world.order("trip", [edge], trip=None)[edge].get("tripped", 0) > before
    was = process.frozen or not process.alive
    if number == signal.SIGSTOP:
        process.send(signal.SIGCONT)
    else:
        world.wait_at_work(name, AT_WORK_S, but=process.pid)
    return tripped and was, f"{number.name} at `{fault.options['statement']}`: {tripped}, it took effect: {was}"


def server_killed(nemesis: Nemesis, fault: Fault) -> Act:
    """kill -9 of mysqld or redis; it is started again after `seconds`, redis perhaps with nothing in it."""
    world = nemesis.world
    server = world.database if fault.options["at"] == "mysqld" else world.redis
    pid = server.pid
    server.kill()
    yield
    if fault.options.get("empty"):
        for file in (server.directory / "appendonlydir").glob("*"):
            file.unlink()
    server.start()
    keys = len(list((server.directory / "appendonlydir").glob("*")))
    return bool(pid and server.pid and pid != server.pid), f"process {pid}, then {server.pid}; {keys} files of its own"


def server_frozen(nemesis: Nemesis, fault: Fault) -> Act:
    """SIGSTOP of mysqld or redis."""
    server = nemesis.world.database if fault.options["at"] == "mysqld" else nemesis.world.redis
    server.suspend()
    yield
    state = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0]
    server.resume()
    return state == "T", f"process {server.pid} was in state {state}"


def flushall(nemesis: Nemesis, fault: Fault) -> Act:
    """FLUSHALL, once."""
    from redis import Redis

    with Redis(unix_socket_path=str(nemesis.world.redis.directory / "redis.sock")) as redis:
        keys = redis.dbsize()
        redis.flushall()
    yield
    return bool(keys), f"{keys} keys gone"


def copies(nemesis: Nemesis, fault: Fault) -> Act:
    """Ten times a second, whatever a consumer has in hand is put into its queue's list once more, for `for_s`."""
    from redis import Redis

    copied, end = 0, time.monotonic() + fault.options["for_s"]
    with Redis(unix_socket_path=str(nemesis.world.redis.directory / "redis.sock"), decode_responses=True) as redis:
        while time.monotonic() < end:
            for key in list(redis.scan_iter("rq:wip:*")):
                ids = [str(member).rpartition(":")[0] for member in redis.zrange(key, 0, -1)]
                if ids:
                    redis.rpush(f"rq:queue:{key.removeprefix('rq:wip:')}", *ids)
                    copied += len(ids)
            time.sleep(0.1)
    yield
    return copied > 0, f"{copied} copies of messages"


def edge(nemesis: Nemesis, fault: Fault) -> Act:
    """The edge is cut, stalled, held in one direction or slow."""
    world, name, mode = nemesis.world, fault.options["edge"], fault.options["mode"]
    before = world.order("stats")[name]
    world.order("set", [name], mode=mode, ms=200)
    yield
    after = world.order("set", [name], mode="pass")[name]
    more = {key: n - before.get(key, 0) for key, n in after.items() if n > before.get(key, 0)}
    shows = {"cut": ("cut", "refused"), "stall": ("held_up", "held_down"), "slow": ("slowed",)}
    return any(more.get(key) for key in shows.get(mode, (f"held_{mode}",))), f"{more}"


def commits(nemesis: Nemesis, fault: Fault) -> Act:
    """Connections are cut around their COMMIT: before it is forwarded, or when it is answered."""
    world, name, where = nemesis.world, fault.options["edge"], fault.options["where"]
    before = world.order("stats")[name].get(f"commit_{where}", 0)
    world.order("commits", [name], where=where, count=fault.options.get("count", 3))
    until(lambda: world.order("stats")[name].get(f"commit_{where}", 0) > before, 15, 0.05)
    yield
    cut = world.order("commits", [name], where=None, count=0)[name].get(f"commit_{where}", 0) - before
    return cut > 0, f"{cut} COMMITs cut {where}"


def threads_killed(nemesis: Nemesis, fault: Fault) -> Act:
    """Sessions of mysqld are killed at random, five a second."""
    killed, end = 0, time.monotonic() + fault.options["for_s"]
    with nemesis.world.connect() as connection, connection.cursor() as cursor:
        while time.monotonic() < end:
            cursor.execute(
                "SELECT id FROM information_schema.processlist WHERE id <> CONNECTION_ID() AND db IS NOT NULL"
            )
            ids = [row[0] for row in cursor.fetchall()]
            if ids:
                with contextlib.suppress(pymysql.MySQLError):
                    cursor.execute(f"KILL {nemesis._rng.choice(ids)}")
                    killed += 1
            time.sleep(0.2)
    yield
    return killed > 0, f"{killed} sessions killed"


def exhaust(nemesis: Nemesis, fault: Fault) -> Act:
    """All connections that mysqld accepts are taken."""
    held, refused = [], 0
    for _ in range(400):
        try:
            held.append(nemesis.world.connect())
        except pymysql.MySQLError as error:
            refused = error.args[0]
            break
    yield
    for connection in held:
        connection.close()
    return refused == 1040, f"{len(held)} connections taken, the next one was refused with {refused}"


def rolling(nemesis: Nemesis, fault: Fault) -> Act:
    """SIGTERM to one process after the other, each started again before the next."""
    world = nemesis.world
    yield
    codes = {}
    for name in world.places:
        begun_us, pid = now_us(), world.kill(name, signal.SIGTERM, restart_after_s=0.2)
        back = world.wait_at_work(name, AT_WORK_S, but=pid)
        codes[name] = [death.code for death in world.deaths if death.pid == pid]
        nemesis.tell("rolling_restart", name, begun_us, back and len(codes[name]) == 1, f"exit code {codes[name]}")
    return all(code in ([0], [-signal.SIGTERM]) for code in codes.values()), f"all were restarted: {codes}"


ACTS: dict[str, Callable[[Nemesis, Fault], Act]] = {
    "kill": kill,
    "freeze": freeze,
    "freeze_full_hands": freeze_full_hands,
    "trip": trip,
    "server_killed": server_killed,
    "server_frozen": server_frozen,
    "flushall": flushall,
    "redis_copies": copies,
    "edge": edge,
    "commits": commits,
    "kill_threads": threads_killed,
    "exhaust_connections": exhaust,
    "rolling_restart": rolling,
    "handler": handler,
    "leak": leak,
}
