"""A crontab file read: what it would run, when, and with what; and which of its lines cannot be used. Pure.

The format is that of crontab(5): five fields or `@daily` and its like, comments, `NAME = value` lines that hold for the
lines below, `%` for the input. A system's crontab names a user before the command.
"""

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MOST = 500
ASSIGNMENT = re.compile(r"""\s*(?:"([^"]+)"|'([^']+)'|([A-Za-z_]\w*))\s*=\s*(.*?)\s*""", re.DOTALL)
FIELDS = re.compile(r"\s*((?:\S+\s+){4}\S+)\s+(.*)", re.DOTALL)
ALIAS = re.compile(r"\s*(@\S+)\s*(.*)", re.DOTALL)
NO_COMMAND = "there is no command"
SHELL = "/bin/sh"
# for cron itself: the rest is the command's environment
OWN = ("CRON_TZ", "RANDOM_DELAY", "MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "CRONDARGS")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line that runs something."""

    line: int
    cron: str
    timezone: str
    jitter_s: int
    command: str
    stdin: str | None = None
    user: str | None = None
    env: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What consumers know the command by: the same for as long as what is run is the same."""
        what = "\0".join([self.user or "", self.command, self.stdin or "", *map("=".join, sorted(self.env.items()))])
        program = PurePosixPath(self.command.split()[0]).name
        slug = re.sub(r"[^A-Za-z0-9_.-]+", "-", program).strip("-")[:40] or "command"
        return f"{slug}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"

    @property
    def allowed(self) -> dict[str, object]:
        """What CLOCKJACK_COMMANDS says of it: a program and its arguments, and its environment."""
        shell = self.env.get("SHELL", SHELL)
        argv = [shell, "-c", self.command]
        if self.stdin is not None:
            argv = [shell, "-c", 'printf %s "$2" | "$1" -c "$0"', self.command, shell, self.stdin]
        env = {name: value for name, value in self.env.items() if name != "SHELL"}
        found: dict[str, object] = {"argv": argv}
        if env:
            found["env"] = env
        if self.env.get("HOME", "").startswith("/"):
            found["cwd"] = self.env["HOME"]
        return found


@dataclass(slots=True)
class Table:
    """A crontab: its entries, what is wrong with its lines, and what of it is not carried over."""

    entries: list[Entry] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)


def read(text: str, *, timezone: str = "UTC", system: bool = False) -> Table:
    """The file; `timezone` is that of lines above which there is no CRON_TZ. With `system` each line names a user."""
    table, env, cron = Table(), dict[str, str](), {"CRON_TZ": timezone}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if assigned := ASSIGNMENT.fullmatch(line):
            name, value = assigned[1] or assigned[2] or assigned[3], _unquoted(assigned[4])
            (cron if name in OWN else env)[name] = value
            if name.startswith("MAIL"):
                table.notes.append((number, f"{name}: nothing is mailed; results are kept with the runs"))
            continue
        try:
            table.entries.append(_entry(number, line, cron, env, system))
        except ValueError as error:
            table.wrong.append((number, str(error)))
            continue
        if system:
            user = table.entries[-1].user
            table.notes.append((number, f"user {user!r}: the command runs as the consumer's user"))
    if len(table.entries) > MOST:
        table.wrong.append((table.entries[MOST].line, f"more than {MOST} entries"))
    return table


def _entry(number: int, line: str, cron: dict[str, str], env: dict[str, str], system: bool) -> Entry:
    found = ALIAS.fullmatch(line) if line.lstrip().startswith("@") else FIELDS.fullmatch(line)
    if not found:
        raise ValueError(f"expected five fields and a command, or NAME = value: {line.strip()[:60]!r}")
    when, rest = found[1], found[2]
    if when.lower() == "@reboot":
        raise ValueError("@reboot: there is no machine whose start is meant; leave the line out")
    user = None
    if system:
        user, rest = [*rest.split(None, 1), "", ""][:2]
    command, stdin = _command(rest.strip())
    if not command:
        raise ValueError(NO_COMMAND if not system else "there is no user and command")
    delay = cron.get("RANDOM_DELAY", "0")
    if not delay.isdecimal() or int(delay) > 1440:
        raise ValueError(f"RANDOM_DELAY: expected minutes from 0 to 1440, not {delay[:20]!r}")
    return Entry(number, " ".join(when.split()), cron["CRON_TZ"], int(delay) * 60, command, stdin, user, dict(env))


def _command(text: str) -> tuple[str, str | None]:
    r"""What is run, and its input: from the first `%` on, where each other `%` ends a line; `\%` is a `%`."""
    parts = [part.replace("\\%", "%") for part in re.split(r"(?<!\\)%", text)]
    if len(parts) == 1:
        return parts[0].strip(), None
    return parts[0].strip(), "\n".join(parts[1:]) + "\n"


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text
