"""Private database and Redis servers: found or installed, started on a directory of their own, without a network port.

`python -m deploy.servers install` makes sure that the server programs exist.
"""

import atexit
import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from deploy import programs
from deploy.programs import CACHE, Program, ServerUnavailable

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
SOCKET_PATH_MAX = 100  # the kernel allows 107 bytes (Linux) or 103 (macOS)


class Server:
    """A server process on its own directory, answering at `url`; start() after stop() or kill() keeps its data.

    `argv` is what start() runs.
    """

    def __init__(self, directory: Path, argv: list[str], url: str, greet: Callable[[], str]) -> None:
        self.directory = directory
        self.url = url
        self.version = ""
        self.argv = argv
        self._greet = greet
        self._process: subprocess.Popen[bytes] | None = None
        self._claim: int | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 when the server is not running."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> "Server":
        """The server answers. What a crashed former run left behind on this directory is ended first."""
        if self.pid:
            return self
        if self._claim is None:
            self._claim = lock(self.directory / "owner.lock")
            if self._claim is None:
                raise ServerUnavailable(f"{self.directory} is in use by another process; stop that one first")
            atexit.register(self._at_exit, os.getpid())
        held = self._end_orphan()
        with open(self.directory / "server.log", "ab") as log:
            # the child inherits the lock: as long as it is held, server.pid names that very process
            self._process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, pass_fds=(held,)
            )
        (self.directory / "server.pid").write_text(str(self._process.pid))
        os.close(held)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.version = self._greet()
                return self
            except Exception as error:
                code = self._process.poll()
                if code is None and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                self.kill()
                why = f"ended with code {code}" if code is not None else f"does not answer ({error})"
                raise ServerUnavailable(f"{self.argv[0]} {why}; see {self.directory / 'server.log'}") from error

    def stop(self) -> None:
        """The server has shut down in good order (SIGTERM), or was killed when that took longer than a minute."""
        if self.pid:
            self.resume()
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                assert self._process is not None
                self._process.wait(STOP_TIMEOUT_S)
        self.kill()
        if self._claim is not None:
            os.close(self._claim)
            self._claim = None

    def kill(self) -> None:
        """The server is gone without a chance to tidy up (SIGKILL)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def suspend(self) -> None:
        """The server is frozen (SIGSTOP) until resume()."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The server runs on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if not (pid := self.pid):  # 0 would mean our own process group
            raise ProcessLookupError(f"the server of {self.directory} is not running")
        os.kill(pid, number)

    def _end_orphan(self) -> int:
        """The server lock of the directory, held; the server of a run that was killed no longer lives."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        signal_to_send = signal.SIGTERM
        while (held := lock(self.directory / "server.lock")) is None:
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((self.directory / "server.pid").read_text()), signal_to_send)
            if time.monotonic() > deadline:
                raise ServerUnavailable(f"an old server still holds {self.directory / 'server.lock'}; end it by hand")
            if time.monotonic() > deadline - STOP_TIMEOUT_S / 2:
                signal_to_send = signal.SIGKILL
            time.sleep(0.1)
        return held

    def _at_exit(self, owner_pid: int) -> None:
        if os.getpid() == owner_pid:  # not in a forked child
            self.stop()


def database(directory: str | Path, flavour: str = "mariadb", **options: str) -> Server:
    """A running database server with an empty or the former database `clockjack`, durable at every COMMIT.

    `flavour` is "mariadb" (or else any MySQL of this machine) or "mysql" (Oracle's only); `options` are server options.
    """
    home = _private_directory(directory)
    program = programs.mysql() if flavour == "mysql" else programs.mariadb()
    if os.geteuid() == 0:
        program.argv.append("--user=root")
    data, socket = home / "data", _socket(home, "db.sock")
    if not data.is_dir():
        with tempfile.TemporaryDirectory(dir=home) as scratch:
            shutil.copytree(_template(program), Path(scratch, "data")).rename(data)
    settings = {
        "datadir": str(data),
        "socket": str(socket),
        "pid_file": str(home / "mysqld.pid"),
        "skip_networking": "ON",
        "character_set_server": "utf8mb4",
        "collation_server": "utf8mb4_bin",
        "innodb_flush_log_at_trx_commit": "1",
        "sync_binlog": "1",
        "log_bin": "binlog",
        "server_id": "1",
        "max_binlog_size": "64M",
        "binlog_expire_logs_seconds": "3600",
        "innodb_print_all_deadlocks": "ON",
        "innodb_buffer_pool_size": "256M",
        "max_connections": "300",
        "performance_schema": "OFF",
        # a log that a burst of 20,000 runs does not fill: when it is full, COMMITs wait for pages to be written
        **({"innodb_log_file_size": "256M"} if program.is_mariadb else {"innodb_redo_log_capacity": "256M"}),
        **({"binlog_format": "ROW"} if program.is_mariadb else {}),  # MySQL knows no other any more
        **options,
    }
    # nobody listens in on a socket file; without this every new session would read the machine's certificates (20 ms)
    options_of_url = f"unix_socket={quote(str(socket))}&charset=utf8mb4&ssl_disabled=true"
    url = f"mysql+pymysql://root@localhost/clockjack?{options_of_url}"
    argv = [*program.argv, *(f"--{name.replace('_', '-')}={value}" for name, value in settings.items())]
    return Server(home, argv, url, lambda: _greet_database(socket)).start()


def redis(directory: str | Path, persistent: bool = True) -> Server:
    """A running Redis that refuses writes rather than forget keys; `persistent` keeps its data over a restart."""
    home = _private_directory(directory)
    socket = _socket(home, "redis.sock")
    settings = ["--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(home)]
    settings += ["--maxmemory-policy", "noeviction", "--save", ""]
    settings += ["--appendonly", "yes" if persistent else "no", "--appendfsync", "everysec"]
    settings += ["--hash-max-listpack-value", "128"]  # a job's hash stays compact: half the memory
    return Server(
        home, [*programs.redis(), *settings], f"unix://{quote(str(socket))}", lambda: _greet_redis(socket)
    ).start()


def _template(program: Program) -> Path:
    """A data directory with nothing but the system tables, made once per version and only ever copied."""
    number = "".join(re.findall(r"Ver (\S+)", program.version)[:1]) or "unknown"
    template = CACHE / f"{'mariadb' if program.is_mariadb else 'mysql'}-{number}-template"
    if template.is_dir():
        return template
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".template-") as scratch:
        data = Path(scratch, "data")
        data.mkdir(mode=0o700)
        mode, script = ["--initialize-insecure"], b""
        if program.is_mariadb:
            mode = ["--bootstrap", "--log-warnings=0", "--enforce-storage-engine=", "--innodb-log-file-size=32M"]
            script = _system_tables(program.share)
        done = subprocess.run([*program.argv, f"--datadir={data}", *mode], input=script, capture_output=True)
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["(no output)"]
            raise ServerUnavailable(f"{program.argv[0]} cannot make its system tables: {said[-1]}")
        (data / "auto.cnf").unlink(missing_ok=True)  # the identity of one server
        with contextlib.suppress(OSError):  # somebody else was faster
            data.rename(template)
    return template


def _system_tables(share: Path) -> bytes:
    """What mariadb-install-db feeds to a bootstrapping server; root needs no password, the socket is private."""
    for directory, prefix in (("mariadb", "mariadb"), ("mysql", "mariadb"), ("mysql", "mysql"), ("mariadb", "mysql")):
        files = [
            share / directory / f"{prefix}_{part}.sql"
            for part in ("system_tables", "performance_tables", "system_tables_data")
        ]
        if all(file.exists() for file in files):
            head = b"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\nSET @auth_root_socket=NULL;\n"
            return head + b"".join(file.read_bytes() for file in files)
    raise ServerUnavailable(f"MariaDB's system tables (…_system_tables.sql) are not in {share}")


def _greet_database(socket: Path) -> str:
    import pymysql

    with pymysql.connect(unix_socket=str(socket), user="root", connect_timeout=2, ssl_disabled=True) as connection:
        cursor = connection.cursor()
        cursor.execute("CREATE DATABASE IF NOT EXISTS clockjack CHARACTER SET utf8mb4 COLLATE utf8mb4_bin")
        cursor.execute("SELECT VERSION()")
        return str(cursor.fetchone()[0])


def _greet_redis(socket: Path) -> str:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    with Redis(unix_socket_path=str(socket), socket_timeout=2, retry=Retry(NoBackoff(), 0)) as client:
        client.ping()
        return str(client.info("server")["redis_version"])


def _private_directory(directory: str | Path) -> Path:
    home = Path(directory).resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    return home


def _socket(home: Path, name: str) -> Path:
    """A socket path that the kernel accepts: in `home`, or in a short private directory when `home` is deep."""
    if len(bytes(home / name)) <= SOCKET_PATH_MAX:
        return home / name
    short = Path(tempfile.mkdtemp(prefix="clockjack-", dir="/tmp"))
    atexit.register(shutil.rmtree, short, ignore_errors=True)
    return short / name


def lock(path: Path) -> int | None:
    """A file descriptor that holds the lock, or None when somebody else does."""
    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(held)
        return None
    return held


if __name__ == "__main__":
    if sys.argv[1:] != ["install"]:
        sys.exit("usage: python -m deploy.servers install")
    try:
        programs.install()
    except ServerUnavailable as unavailable:
        print(f"servers: {unavailable}", file=sys.stderr)
        sys.exit(3)
