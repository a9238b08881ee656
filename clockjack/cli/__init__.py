"""The command `clockjack`: works on the ledger directly, so it needs no running producer.

Bad input ends with code 2, what the state of the world refuses with 1; both with one line on stderr.
"""

import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.exceptions import TyperException

from clockjack.cli import (
    control,
    crontab,
    endpoints,
    expect,
    explain,
    groups,
    load,
    operations,
    preview,
    queue,
    register,
    retime,
    runs,
    show,
    simulate,
    tasks,
)
from clockjack.cli.session import Failed
from clockjack.ledger.database import Unavailable, UnknownCommit, code
from clockjack.ledger.server import Unfit
from clockjack.ledger.tasks import StateConflict
from clockjack.registration import Refused
from clockjack.schedules import ScheduleError
from clockjack.settings import SettingsError

COMMANDS: dict[str, Callable[..., None]] = {
    "add": register.add,
    "list": tasks.list_,
    "show": tasks.show_,
    "explain": explain.explain,
    "edit": control.edit,
    "pause": control.pause,
    "resume": control.resume,
    "cancel": control.cancel,
    "run-now": control.run_now,
    "backfill": control.fill,
    "runs": tasks.runs,
    "next": preview.next_,
    "forecast": load.forecast,
    "retime": retime.retime,
    "simulate": simulate.simulate,
    "migrate": operations.migrate,
    "doctor": operations.doctor,
    "demo": operations.demo,
}
KEYS: dict[str, Callable[..., None]] = {
    "create": operations.keys_create,
    "list": operations.keys_list,
    "revoke": operations.keys_revoke,
}
GROUP: dict[str, Callable[..., None]] = {
    "put": groups.put,
    "show": groups.show_,
    "move": groups.move,
    "cancel": groups.cancel,
}
IMPORT: dict[str, Callable[..., None]] = {"crontab": crontab.import_crontab}
ENDPOINTS: dict[str, Callable[..., None]] = {
    "create": endpoints.create,
    "list": endpoints.list_,
    "rotate": endpoints.rotate,
    "enable": endpoints.enable,
    "disable": endpoints.disable,
    "delete": endpoints.delete,
    "reseal": endpoints.reseal,
}
EXPECT: dict[str, Callable[..., None]] = {
    "create": expect.create,
    "list": expect.list_,
    "ping": expect.ping,
    "delete": expect.delete,
}
RUN: dict[str, Callable[..., None]] = {
    "list": runs.list_,
    "get": runs.get,
    "retry": runs.retry,
    "cancel": runs.cancel,
}
DEAD: dict[str, Callable[..., None]] = {"list": runs.dead_list, "replay": runs.dead_replay}
QUEUE: dict[str, Callable[..., None]] = {"list": queue.list_, "pause": queue.pause, "resume": queue.resume}
app = typer.Typer(help="Schedule tasks on MySQL and Redis.", no_args_is_help=True, add_completion=False)
keys = typer.Typer(help="API keys of the HTTP API.", no_args_is_help=True)
group = typer.Typer(help="Tasks at offsets from one moment, changed as one.", no_args_is_help=True)
importing = typer.Typer(help="Tasks from files, kept in step with them.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(importing, name="import")
app.add_typer(group, name="group")
receivers = typer.Typer(help="Receivers of webhooks, by name.", no_args_is_help=True)
app.add_typer(receivers, name="endpoints")
expected = typer.Typer(help="Who is told when something was not heard of for too long.", no_args_is_help=True)
app.add_typer(expected, name="expect")
queues = typer.Typer(help="Queues, which all namespaces share: how they stand, paused, resumed.", no_args_is_help=True)
app.add_typer(queues, name="queue")
one_run = typer.Typer(help="Runs of all tasks: listed, shown, tried again, cancelled.", no_args_is_help=True)
app.add_typer(one_run, name="run")
dead = typer.Typer(help="Dead letters: runs that have failed for good.", no_args_is_help=True)
app.add_typer(dead, name="dead")
TYPERS = (
    (app, COMMANDS),
    (keys, KEYS),
    (group, GROUP),
    (importing, IMPORT),
    (receivers, ENDPOINTS),
    (expected, EXPECT),
    (queues, QUEUE),
    (one_run, RUN),
    (dead, DEAD),
)
for typed, commands in TYPERS:
    for name, command in commands.items():
        typed.command(name)(command)


def main() -> None:
    """Runs the command and ends the process with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """The exit code of the command; what went wrong is on stderr, in one line."""
    try:
        return int(typer.main.get_command(app).main(argv, "clockjack", standalone_mode=False) or 0)
    except TyperException as error:
        text, exit_code = error.format_message(), error.exit_code
        if not text:  # no command was given, and the help was printed
            return exit_code
    except Failed as error:
        text, exit_code = str(error), error.exit_code
    except ScheduleError as error:
        text, exit_code = str(Refused([(error.field, str(error))])), 2
    except (Refused, SettingsError) as error:
        text, exit_code = str(error), 2
    except (StateConflict, Unavailable, UnknownCommit, Unfit) as error:
        text, exit_code = str(error), 1
    except typer.Abort:
        text, exit_code = "interrupted", 130
    except Exception as error:
        if code(error) is None:
            raise
        text, exit_code = _refusal(error), 1
    show.complain(text)
    return exit_code


def _refusal(error: Exception) -> str:
    """Words for what the database refused, without the statement and its values."""
    number = code(error)
    if number in (1049, 1146):
        return "the database has no tables of Clockjack: run `clockjack migrate`"
    args: tuple[Any, ...] = getattr(getattr(error, "orig", None), "args", ())
    return f"the database refuses ({number}): {args[1] if len(args) > 1 else type(error).__name__}"
