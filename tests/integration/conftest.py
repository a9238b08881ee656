"""Real servers for the tests: one private pair for each process of a run, emptied for each test.

CLOCKJACK_TEST_FLAVOUR=mysql runs on Oracle's MySQL, CLOCKJACK_TEST_MYSQL_URL on a server of one's own (its database is
emptied!) and in one process. What the product does, it does as the users of deploy/grants.sql. The last lines of the
output name the server that it ran on, or say NOT RUN and why, which is an error.
"""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from clockjack.ledger.migrate import migrate
from clockjack.queues import Queues
from clockjack.settings import Settings
from deploy import grants, servers
from producer.app import create_app
from tests import said
from tests.integration import described
from tests.integration.life import owner
from tests.integration.serving import Producer

TABLES = ("tasks", "runs", "attempts", "task_events", "api_keys", "idempotency_keys", "endpoints", "expectations")
TABLES += ("queues",)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="clockjack-test-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def database_server(
    server_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.Server | None]:
    if os.environ.get("CLOCKJACK_TEST_MYSQL_URL"):
        yield None
        return
    flavour = os.environ.get("CLOCKJACK_TEST_FLAVOUR", "mariadb")
    try:
        # one after the other: the first process fetches the programs and makes the system tables for all
        with open(tmp_path_factory.getbasetemp().parent / "database.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            server = servers.database(server_directory / "database", flavour=flavour)
    except servers.ServerUnavailable as error:
        said.lines.add(f"NOT RUN: {error}")
        raise
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[servers.Server]:
    server = servers.redis(server_directory / "redis")
    yield server
    server.kill()


@pytest.fixture(scope="session")
def migrated_url(database_server: servers.Server | None) -> str:
    url = os.environ.get("CLOCKJACK_TEST_MYSQL_URL") or database_server.url
    migrate(url)
    return url


@pytest.fixture(scope="session")
def emptier(migrated_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(migrated_url, pool_size=1, pool_pre_ping=True)  # some tests kill the server
    with engine.connect() as connection:
        said.lines.add(f"SELECT VERSION(): {connection.execute(sa.text('SELECT VERSION()')).scalar_one()}")
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def users(migrated_url: str) -> dict[str, str]:
    """The URL of each user of deploy/grants.sql; `stages` may do what the three stages may, and has no right else."""
    if os.environ.get("CLOCKJACK_TEST_MYSQL_URL"):  # the administrator of that server is somebody else
        return dict.fromkeys((*grants.STAGES, "sql_producer", "python_producer", "stages"), migrated_url)
    urls = grants.users(migrated_url)
    owner = sa.create_engine(migrated_url)
    with owner.connect() as connection:
        connection.exec_driver_sql("CREATE USER 'stages'@'%%' IDENTIFIED BY 'stages'")
        for statement in grants.statements("clockjack"):
            granted, _, user = statement.rpartition(" TO ")
            if granted and user.split("'")[1] in grants.STAGES:
                connection.exec_driver_sql(f"{granted} TO 'stages'@'%%'")
    owner.dispose()
    url = sa.make_url(migrated_url).set(username="stages", password="stages")
    return urls | {"stages": url.render_as_string(hide_password=False)}


@pytest.fixture
def owner_url(migrated_url: str, emptier: sa.Engine) -> str:
    """Of whom the database belongs to; the tables are empty."""
    with emptier.begin() as connection:
        for table in TABLES:
            connection.execute(sa.text(f"DELETE FROM {table}"))
    return migrated_url


@pytest.fixture
def database_url(owner_url: str, users: dict[str, str]) -> str:
    """Of a user who may do what the three stages may; the tables are empty."""
    return users["stages"]


@pytest.fixture
def redis_url(redis_server: servers.Server) -> str:
    Queues(redis_server.url).redis.flushall()
    return redis_server.url


@pytest.fixture
def database(database_url: str, owner_url: str) -> Iterator[Database]:
    """What the product works on; what tests do beside it by `life.sql` and `life.insert` is done by the owner."""
    database = Database(database_url, size=6)
    database.owner = Database(owner_url, size=2)  # type: ignore[attr-defined]
    database.now()
    yield database
    database.owner.close()  # type: ignore[attr-defined]
    database.close()


@pytest.fixture
def queues(redis_url: str) -> Queues:
    return Queues(redis_url)


@pytest.fixture(scope="module")
def serving(migrated_url: str, redis_server: servers.Server) -> Iterator[Producer]:
    """A producer that all tests of a module may ask and none may end: to start one takes a second of a processor.

    It looks at Redis now and then, so it is gone before the tests of another module that count what is asked there.
    """
    producer = Producer(migrated_url, redis_server.url)
    producer.start()
    yield producer
    producer.end(signal.SIGKILL)


@pytest.fixture
def app(database_url: str, redis_url: str, users: dict[str, str]) -> Any:
    return create_app(Settings(database_url=users["producer"], redis_url=redis_url, secret_keys=(b"k" * 32,)))


@pytest.fixture
def anonymous(app: Any) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        client.event_hooks = {"request": [], "response": [described.check]}
        yield client


@pytest.fixture
def http(anonymous: TestClient, database: Database) -> TestClient:
    key = owner(database).transaction(lambda c: keys.create(c, "default", "test", "admin"))
    anonymous.headers["Authorization"] = f"Bearer {key}"
    return anonymous
