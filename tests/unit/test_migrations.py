"""The chain of revisions, and how a process that migrates nothing knows its end."""

import subprocess
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory

from clockjack.ledger import migrate


def test_the_newest_file_is_the_head_of_one_unbroken_chain() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrate.MIGRATIONS))
    chain = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert chain == [f"{number:04}" for number in range(len(chain), 0, -1)]
    assert migrate.head() == chain[0]
    assert len(list(migrate.MIGRATIONS.glob("versions/r*.py"))) == len(chain)


def test_processes_that_migrate_nothing_do_not_load_the_migrator() -> None:
    code = "import consumers.__main__, dispatcher.__main__, sys; print('alembic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
