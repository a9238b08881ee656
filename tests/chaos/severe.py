"""The acts of the long run: failovers, a full and a slow disk, clocks that jump, and two faults at once.

Each needs something that the world has to have been prepared for: `prepare` does that before the processes start.
"""

import contextlib
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Generator
from email.utils import parsedate_to_datetime
from typing import Any

import pymysql
import pymysql.cursors
from redis import Redis

from deploy import debs, programs, servers
from deploy.supervisor import free_port
from tests.chaos import outage  # noqa: F401  its act is among them
from tests.chaos.nemesis import ACTS, Nemesis
from tests.chaos.plan import Fault
from tests.chaos.world import World
from tests.prove.stage import ROOT, until

Act = Generator[None, None, tuple[bool, str]]
DISK_BYTES = 900 * 2**20
REPLICA = {"skip_networking": "OFF", "bind_address": "127.0.0.1", "log_slave_updates": "ON"}


def library() -> str:
    """The file of libfaketime, fetched from Debian the first time; debs.Unavailable where it cannot be had."""
    root = debs.unpack(["libfaketime"], programs.CACHE / "faketime")
    return str(next(root.glob("usr/lib/*/faketime/libfaketimeMT.so.1")))


def clock(world: World, name: str) -> dict[str, str]:
    """The environment in which a process reads the wall clock that `name`'s file says."""
    file = world.home / f"clock-{name}"
    file.write_text("+0")
    return {
        "LD_PRELOAD": library(),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def prepare(world: World, needs: tuple[str, ...]) -> None:
    """The world has what its faults need: clocks, database_clock, pair."""
    if "clocks" in needs:
        for place in world.places.values():
            place.env |= {**clock(world, place.name), "PYTHONPATH": str(ROOT / "tests" / "chaos" / "faked")}
    if "database_clock" in needs:
        restart(world.database, prefix=["/usr/bin/env", *(f"{k}={v}" for k, v in clock(world, "mysqld").items())])
    if "pair" in needs:
        pair(world)


def restart(server: servers.Server, prefix: list[str] | None = None, **options: str) -> None:
    """The server runs with these words before and these options behind its command."""
    server.stop()
    server.argv[:0] = prefix or []
    server.argv += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    server.start()


def pair(world: World) -> None:
    """The database has a replica without which it commits nothing."""
    port = free_port()
    restart(world.database, **REPLICA, port=str(port), rpl_semi_sync_master_wait_point="AFTER_SYNC")
    replica = servers.database(
        world.home / "replica", **REPLICA, port=str(free_port(taken=[port])), server_id="2",
        rpl_semi_sync_slave_enabled="ON", read_only="ON", max_connections="90", innodb_buffer_pool_size="128M",
    )  # fmt: skip
    world.servers.append(replica)
    world.sql("CREATE USER repl@'%%' IDENTIFIED BY 'repl'")
    world.sql("GRANT REPLICATION SLAVE ON *.* TO repl@'%%'")
    for statement in (
        "RESET MASTER",
        "SET GLOBAL gtid_slave_pos = ''",
        f"CHANGE MASTER TO master_host = '127.0.0.1', master_port = {port}, master_user = 'repl',"
        " master_password = 'repl', master_use_gtid = slave_pos, master_connect_retry = 1",
        "START SLAVE",
    ):
        ask(replica, statement)
    if not until(lambda: status(replica)["Slave_IO_Running"] == "Yes" and followed(replica), 20):
        raise RuntimeError(f"the replica does not follow: {status(replica)}")
    # from now on also after a restart: a commit without the replica waits, for an hour if need be
    lasting = {"rpl_semi_sync_master_enabled": "ON", "rpl_semi_sync_master_timeout": "3600000"}
    for name, value in lasting.items():
        world.sql(f"SET GLOBAL {name} = {value}")
    world.database.argv += [f"--{name.replace('_', '-')}={value}" for name, value in lasting.items()]


def ask(server: servers.Server, statement: str) -> list[dict[str, Any]]:
    """The rows that this very server answers."""
    path = str(server.directory / "db.sock")
    rows = pymysql.cursors.DictCursor
    with pymysql.connect(unix_socket=path, user="root", autocommit=True, read_timeout=10, cursorclass=rows) as c:
        cursor = c.cursor()
        cursor.execute(statement)
        return list(cursor.fetchall())


def status(replica: servers.Server) -> dict[str, Any]:
    """What the replica says of itself."""
    return ask(replica, "SHOW SLAVE STATUS")[0]


def followed(replica: servers.Server) -> bool:
    """The replica has done all that it has received."""
    row = status(replica)
    return bool(row["Slave_SQL_Running"] == "Yes" and row["Read_Master_Log_Pos"] == row["Exec_Master_Log_Pos"])


def mysql_failover(nemesis: Nemesis, fault: Fault) -> Act:
    """The primary is killed and never comes back; the replica, when it has done all it received, takes its place."""
    world, old = nemesis.world, nemesis.world.database
    replica = next(server for server in world.servers if server.directory.name == "replica")
    acknowledged = ask(old, "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync_master_yes_tx'")[0]["Value"]
    old.kill()
    yield
    done = until(lambda: followed(replica), 30)
    for statement in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"):
        ask(replica, statement)
    world.database = replica
    world.order("backend", server="mysql", socket=str(replica.directory / "db.sock"))
    serves = world.sql("SELECT @@server_id")[0][0]
    return done and serves == 2, f"{acknowledged} commits had waited for the replica; server {serves} serves now"


def redis_failover(nemesis: Nemesis, fault: Fault) -> Act:
    """Redis dies when its replica lacks the last seconds; Sentinel promotes the replica, and the edges lead there."""
    world, old = nemesis.world, nemesis.world.redis
    new = servers.redis(world.home / "redis-2")
    world.servers.append(new)
    ports = [free_port()]
    ports += [free_port(taken=ports)]
    sentinel_port = free_port(taken=ports)
    with client(old) as first, client(new) as second:
        first.config_set("port", ports[0])
        first.config_set("repl-diskless-sync-delay", 0)
        second.config_set("port", ports[1])
        second.replicaof("127.0.0.1", ports[0])
        until(lambda: second.info("replication")["master_link_status"] == "up", 20)
        sentinel = start_sentinel(world, sentinel_port, ports[0])
        with Redis(port=sentinel_port) as watch:
            try:
                until(lambda: len(watch.sentinel_slaves("clockjack")) == 1, 20)
                new.suspend()
                first.execute_command("CLIENT", "KILL", "TYPE", "replica")  # what was sent until now is all it gets
                before = first.info("replication")["master_repl_offset"]
                yield
                ahead = first.info("replication")["master_repl_offset"] - before
                old.kill()
                new.resume()
                moved = until(lambda: watch.sentinel_get_master_addr_by_name("clockjack")[1] == ports[1], 30)
                moved = moved and until(lambda: second.info("replication")["role"] == "master", 10)
            finally:
                sentinel.kill()
                sentinel.wait()
    world.redis = new
    world.order("backend", server="redis", socket=str(new.directory / "redis.sock"))
    return moved and ahead > 0, f"the replica lacked {ahead} bytes; Sentinel promoted it: {moved}"


def client(server: servers.Server) -> "Redis":
    """A client of this very server."""
    return Redis(unix_socket_path=str(server.directory / "redis.sock"), socket_timeout=5)


def start_sentinel(world: World, port: int, master: int) -> "subprocess.Popen[bytes]":
    """A Sentinel that alone decides."""
    config = world.home / "sentinel.conf"
    config.write_text(
        f"port {port}\ndir {world.home}\nsentinel monitor clockjack 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds clockjack 1000\nsentinel failover-timeout clockjack 6000\n"
    )
    with open(world.out / "log" / "sentinel.log", "ab") as log:
        child = subprocess.Popen([*programs.redis(), str(config), "--sentinel"], stdout=log, stderr=log)

    def answers() -> bool:
        with contextlib.suppress(Exception), Redis(port=port, socket_timeout=1) as redis:
            return bool(redis.ping())
        return False

    until(answers, 10)
    return child


def disk_full(nemesis: Nemesis, fault: Fault) -> Act:
    """No byte is left on the database's disk for `seconds`; over when a write is done again.

    MariaDB looks only each minute whether there is room again, or ends itself when its disk is full. Then it is done
    what an operator does: it is started again, after 15 s by kill -9.
    """
    world, database = nemesis.world, nemesis.world.database
    ballast = world.disk / "ballast"
    left, how = -1, ""
    try:
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while file.write(bytes(2**20)):  # until there is no room; the database goes on writing meanwhile
                pass
        disk = os.statvfs(world.disk)
        left = disk.f_bavail * disk.f_frsize
        yield
    finally:
        ballast.unlink()
    begun = time.monotonic()
    until(lambda: not database.pid or writes(world), 15, 0.2)
    log = (database.directory / "server.log").read_text(errors="replace")
    if not database.pid:
        how = ", it had ended itself"
    elif not writes(world):
        how = ", killed"
        database.kill()
    if how:
        database.start()
    wrote = until(lambda: writes(world), 15, 0.2)
    said = "No space left" in log or "Disk is full" in log or "Disk full" in log
    return wrote and said, (
        f"{left} bytes were left, the server said so: {said};"
        f" writes again after {time.monotonic() - begun:.1f} s{how}: {wrote}"
    )


def writes(world: World) -> bool:
    """Whether the database commits something within 3 s."""
    path = str(world.database.directory / "db.sock")
    with contextlib.suppress(pymysql.MySQLError), pymysql.connect(unix_socket=path, user="root", read_timeout=3) as c:
        c.cursor().execute("CREATE TABLE IF NOT EXISTS clockjack.chaos_disk (id INT AUTO_INCREMENT PRIMARY KEY)")
        c.cursor().execute("INSERT INTO clockjack.chaos_disk VALUES ()")
        c.commit()
        return True
    return False


def disk_slow(nemesis: Nemesis, fault: Fault) -> Act:
    """mysqld stands still for half of each 200 ms, as a disk that syncs slowly would have it do."""
    server, bursts, end = nemesis.world.database, 0, time.monotonic() + fault.options["for_s"]
    while time.monotonic() < end:
        server.suspend()
        time.sleep(0.1)
        server.resume()
        time.sleep(0.1)
        bursts += 1
    yield
    return bursts > 0, f"{bursts} times 100 ms"


def clock_jump(nemesis: Nemesis, fault: Fault) -> Act:
    """The wall clock of a process jumps by `offset_s`, and back in the end; mysqld's stays where it is."""
    world, name, offset_s = nemesis.world, fault.options["at"], fault.options["offset_s"]
    file = world.home / f"clock-{name}"
    file.write_text(f"{offset_s:+d}")

    def moved_s() -> float:
        if name == "mysqld":
            return float(world.sql("SELECT UNIX_TIMESTAMP(NOW(6))")[0][0]) - time.time()
        url = f"http://127.0.0.1:{world.places[name].port}/metrics"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2) as answer:
            return parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time()
        return 0.0

    seen = until(lambda: abs(moved_s() - offset_s) < 2.5, 10, 0.2)
    yield
    if name != "mysqld":
        file.write_text("+0")
    return seen, f"{offset_s:+d} s, seen from outside: {seen}"


def both(nemesis: Nemesis, fault: Fault) -> Act:
    """Two faults at once; each is told by itself."""
    pairs = [Fault(**one) for one in fault.options["faults"]]
    threads = [threading.Thread(target=nemesis.one, args=(one,)) for one in pairs]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    named = {fault.name for fault in pairs}
    fired = [line["fired"] for line in nemesis.done[-4:] if line["name"] in named]
    return all(fired) and len(fired) >= len(named), " and ".join(sorted(named))


ACTS |= {
    "mysql_failover": mysql_failover,
    "redis_failover": redis_failover,
    "disk_full": disk_full,
    "disk_slow": disk_slow,
    "clock": clock_jump,
    "both": both,
}
