"""The laws of the layout that a linter of imports cannot see."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("producer", "dispatcher", "consumers")
PRODUCT = [p for folder in ("clockjack", *STAGES) for p in sorted((ROOT / folder).rglob("*.py"))]
LEDGER = ROOT / "clockjack" / "ledger"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names(path: Path) -> set[str]:
    """Dotted names that the module uses (`os.environ`, `time.time`)."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_who_may_import_what(path: Path) -> None:
    found = {name.split(".")[0] for name in imports(path)}
    top = path.relative_to(ROOT).parts[0]
    assert not found & (set(STAGES) - {top}), "stages never import one another, and clockjack imports none"
    assert "deploy" not in found
    if LEDGER not in path.parents:
        assert not found & {"pymysql", "alembic", "sqlalchemy"}, "SQL lives in the ledger"
    for library, home in {"croniter": "cron", "dateutil": "recurrence", "cron_descriptor": "wording"}.items():
        if path != ROOT / "clockjack" / f"{home}.py":
            assert library not in found, f"{library} is known to clockjack/{home}.py only"
    if path not in (ROOT / "clockjack" / "queues.py", ROOT / "clockjack" / "reach.py") and top != "consumers":
        assert not found & {"rq", "redis"}


@pytest.mark.parametrize("path", PRODUCT, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_environment_and_the_wall_clock_are_read_in_one_place(path: Path) -> None:
    used = names(path)
    if path.name != "settings.py":
        assert not used & {"os.environ", "os.getenv"}
    if path.name != "telemetry.py":
        clocks = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
        assert not used & clocks, "only the database's clock decides"


def test_no_sql_text_outside_the_ledger() -> None:
    statement = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
    for path in PRODUCT:
        if LEDGER not in path.parents:
            assert not statement.search(path.read_text()), path


def test_modules_stay_small() -> None:
    for path in PRODUCT:
        assert len(path.read_text().splitlines()) <= 320, f"{path} is too long to know"
