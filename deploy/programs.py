"""The server programs of this machine: found on PATH and in Homebrew's places, or else in the project's own cache."""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from deploy import debs

CACHE = Path(__file__).resolve().parent.parent / ".local" / "cache"
PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/homebrew/sbin")


class ServerUnavailable(Exception):
    """A server cannot be had or does not start; the text says which, why and what to do."""


class Program(NamedTuple):
    """A database server: how to run it, what it calls itself, where its system tables and messages are."""

    argv: list[str]
    version: str
    share: Path

    @property
    def is_mariadb(self) -> bool:
        return "mariadb" in self.version.lower()


def install() -> None:
    """The programs of a database and of Redis exist on this machine, or ServerUnavailable says what to install."""
    for find in (mariadb, redis):
        with contextlib.suppress(ServerUnavailable):
            find()
            continue
        try:
            if not shutil.which("apt-get"):
                raise debs.Unavailable("no server program found")
            if not debs.install(["mariadb-server-core", "redis-tools"]):
                debs.unpack(["mariadb-server-core", "redis-tools"], CACHE / "debian")
        except debs.Unavailable as error:
            raise ServerUnavailable(f"{error}. To install the servers by hand: {_hint()}") from error
        find()


def mariadb() -> Program:
    """The MariaDB of this machine or of the cache; a machine that has MySQL instead gives that."""
    if found := _which("mariadbd") or _which("mysqld"):
        return _program([found], Path(found).resolve().parent.parent)
    root = CACHE / "debian"
    if not root.is_dir():
        raise ServerUnavailable(f"no database server found. Run `make setup`, or by hand: {_hint()}")
    return _program(debs.command(root, root / "usr/sbin/mariadbd"), root / "usr", unpacked=True)


def mysql() -> Program:
    """Oracle's MySQL: the one of this machine, or Debian's, unpacked privately."""
    if found := _which("mysqld"):
        program = _program([found], Path(found).resolve().parent.parent)
        if not program.is_mariadb:
            return program
    try:
        root = debs.unpack(["mysql-server-core"], CACHE / "mysql", suite="sid")
        return _program(debs.command(root, root / "usr/sbin/mysqld"), root / "usr", unpacked=True)
    except debs.Unavailable as error:
        raise ServerUnavailable(f"Oracle's MySQL cannot be had here: {error}") from error


def redis() -> list[str]:
    """The argv of redis-server, of valkey-server, or of Debian's redis-check-rdb, which is one when it is named so."""
    if found := _which("redis-server") or _which("valkey-server"):
        return [found]
    root = CACHE / "debian"
    system = _which("redis-check-rdb")
    if not system and not root.is_dir():
        raise ServerUnavailable(f"no Redis server found. Run `make setup`, or by hand: {_hint()}")
    link = CACHE / "redis-server"
    CACHE.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        link.symlink_to(system or root / "usr/bin/redis-check-rdb")
    return [str(link)] if system else debs.command(root, link)


def _program(argv: list[str], prefix: Path, unpacked: bool = False) -> Program:
    """The server started by `argv` and installed under `prefix`, told to open no further port."""
    done = subprocess.run([*argv, "--no-defaults", "--version"], capture_output=True, text=True)
    if done.returncode != 0:
        raise ServerUnavailable(f"{argv[-1]} does not run: {done.stderr.strip()}")
    program = Program([*argv, "--no-defaults"], done.stdout.strip(), prefix / "share")
    if not program.is_mariadb:
        program.argv.extend(["--mysqlx=OFF", "--secure-file-priv=NULL", "--innodb-redo-log-capacity=64M"])
    if unpacked:  # keep away from the system's own files
        share = prefix / "share/mysql"
        program.argv.extend(
            [f"--basedir={prefix}", f"--lc-messages-dir={share}", f"--plugin-dir={prefix}/lib/mysql/plugin"]
        )
        program.argv.append(f"--character-sets-dir={share}/charsets")
    return program


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES]))


def _hint() -> str:
    if sys.platform == "darwin":
        return "`brew install mariadb redis`"
    if shutil.which("dnf"):
        return "`sudo dnf install mariadb-server redis`"
    if shutil.which("apt-get"):
        return "`sudo apt-get install mariadb-server-core redis-tools`"
    return "install MariaDB 10.6 or later (mariadbd) and Redis (redis-server) with your package manager"
