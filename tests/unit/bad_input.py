"""Bad schedules, zones, times and policies: one table for every door.

`document` is a registration without its handler; `field` is what every door must name, and `words` a part of what HTTP
and the command line say. What becomes of the same by plain SQL stands in `sql`:

- REFUSED: a CHECK or the column refuses the statement. PARKED: the first claim makes the task `invalid`, with words.
- "taken: …": it is no fault there, and why. "none: …": it cannot be said there, and why.

`http` and `cli` say why a case cannot be said there. Odd expressions that are *not* refused (`0 0 29 2 MON#5`, `5-1`,
`*/61`, a time a microsecond ago, +14:00, nanoseconds) are in the tests of what they mean.
"""

import json
from typing import Any, NamedTuple

REFUSED, PARKED = "refused", "parked"
NOT_READ_AS_RFC3339 = "none: a column takes what the server can read as a date and time, which is in UTC"
NUMBER = "none: the server makes a number of it"
NO_TYPES = "an option is a text: there are no other types"
NOT_GIVEN = "an option that is not given has its default"
NO_NUL = "an argument of a process cannot hold NUL"
HALF = "JSON with half of a surrogate pair is not read: 400 for the whole body"
CANNOT_BE_SENT = "none: the driver cannot encode it"


class Bad(NamedTuple):
    """A registration that no door takes as it is."""

    name: str
    document: dict[str, Any]
    field: str
    words: str
    sql: str
    http: str = ""
    cli: str = ""


def _cron(cron: Any, words: str, sql: str = PARKED, **why: str) -> Bad:
    return Bad(f"cron {ascii(cron)[:30]}", {"cron": cron}, "cron", words, sql, **why)


def _zone(zone: Any, words: str = "unknown time zone", sql: str = PARKED, **why: str) -> Bad:
    return Bad(f"zone {ascii(zone)[:30]}", {"cron": "* * * * *", "timezone": zone}, "timezone", words, sql, **why)


def _time(field: str, value: Any, words: str, sql: str, **why: str) -> Bad:
    kind = {} if field.startswith("run_at") else {"every_s": 60}
    return Bad(f"{field} {ascii(value)[:40]}", kind | {field: value}, field, words, sql, **why)


def _every(field: str, value: Any, words: str, sql: str, **why: str) -> Bad:
    """A value of an option of a task that is due each minute."""
    return Bad(f"{field} {ascii(value)[:40]}", {"every_s": 60, field: value}, field, words, sql, **why)


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


FORM, NEVER = "RFC 3339", "never fires"
CRON = [
    _cron("", "must not be empty"),
    _cron(" ", "0 field"),
    _cron("* * * *", "4 field"),
    _cron("* * * * * * 2030", "7 field"),
    _cron("60 * * * *", "is no minute of a cron"),
    _cron("60 * * * * *", "is no second of a cron"),
    _cron("0 24 * * *", "is no hour of a cron"),
    _cron("0 0 32 * *", "is no day-of-month of a cron"),
    _cron("0 0 0 * *", "is no day-of-month of a cron"),
    _cron("0 0 1 13 *", "is no month of a cron"),
    _cron("0 0 * * 8", "is no day-of-week of a cron"),
    _cron("*/0 * * * *", "is no minute of a cron"),
    _cron("1,,2 * * * *", "is no minute of a cron"),
    _cron("-1 * * * *", "is no minute of a cron"),
    _cron("1.5 * * * *", "is no minute of a cron"),
    _cron("0 22-2/3 * * *", "wraps around takes no step"),
    _cron("? * * * *", "is no minute of a cron"),
    _cron("0 0 15W * *", "is no day-of-month of a cron"),
    _cron("0 0 LW * *", "is no day-of-month of a cron"),
    _cron("0 0 * * 5L", "is no day-of-week of a cron"),
    _cron("0 0 * * MON,FRI#2", "is no day-of-week of a cron"),
    _cron("R R * * *", "is no minute of a cron"),
    _cron("H(9-1) * * * *", "is no minute of a cron"),
    _cron("0 0 H(1-31) * *", "with H: 1 to 28"),
    _cron("@reboot", "or one of @hourly"),
    _cron("@every 5m", "or one of @hourly"),
    _cron("0 0 30 2 *", NEVER),
    _cron("0 0 31 4,6,9,11 *", NEVER),
    _cron("* * */20 * L1", NEVER),
    _cron("\u0661 * * * *", "ASCII"),
    _cron("\uff10 * * * *", "ASCII"),
    _cron("*\u00a0* * * *", "ASCII"),
    _cron("* * * * *\n", "one line"),
    _cron("* * * * *\x00", "one line", cli=NO_NUL),
    _cron("1," * 130 + "1 * * * *", "255", REFUSED),
    _cron(",".join(["0-59"] * 5000) + " * * * *", "255", REFUSED),
    _cron("9" * 200 + " * * * *", "is no minute of a cron"),
    _cron("\udcff * * * *", "surrogate", CANNOT_BE_SENT, http=HALF),
    _cron(5, "expected a text", "none: the server makes a text of it", cli=NO_TYPES),
    _cron(["* * * * *"], "expected a text", "none: a column holds no list", cli=NO_TYPES),
]
ZONES = [
    *map(_zone, ("Mars/X", "europe/berlin", "EUROPE/BERLIN", "Europe", "Europe/", "/Europe/Berlin", "Europe/Berlin ")),
    *map(_zone, ("../../etc/passwd", "Europe/../Europe/Berlin", "/etc/localtime", "./UTC", "posix/UTC", "right/UTC")),
    *map(_zone, ("localtime", "posixrules", "Factory", "zone.tab", "+01:00", "UTC+1", "CEST", "<script>", " ")),
    _zone("", "must not be empty"),
    _zone("x" * 300, "64 characters", REFUSED),
    _zone("UTC\x00", cli=NO_NUL),
    _zone("\udcff", "surrogate", CANNOT_BE_SENT, http=HALF),
    _zone(None, "expected a text", REFUSED, cli=NOT_GIVEN),
    _zone(1, "expected a text", "none: the server makes a text of it", cli=NO_TYPES),
    Bad("local zone", {"run_at_local": "2030-01-01T00:00", "timezone": "X"}, "timezone", "unknown", PARKED),
]
TIMES = [
    # what is no moment at all
    _time("run_at", "0000-00-00T00:00:00Z", "no such date", REFUSED),
    _time("run_at", "2026-00-10T00:00:00Z", "no such date", REFUSED),
    _time("run_at", "2030-02-30T00:00:00Z", "no such date", REFUSED),
    _time("run_at", "2030-01-01T24:00:00Z", "no such date", REFUSED),
    _time("run_at", "2030-01-01T00:00:60Z", "no such date", REFUSED),
    _time("run_at", "2030-01-01T00:00:00+25:00", "no such date", NOT_READ_AS_RFC3339),
    _time("run_at", "0001-01-01T00:00:00+01:00", "no such date", NOT_READ_AS_RFC3339),
    _time("run_at", "", FORM, REFUSED),
    _time("run_at", "tomorrow", FORM, REFUSED),
    _time("start_at", "2030-02-30T00:00:00Z", "no such date", REFUSED),
    _time("end_at", "2030-13-01T00:00:00Z", "no such date", REFUSED),
    _time("run_at_local", "2030-02-30T00:00:00", "no such date", REFUSED),
    _time("run_at_local", "2030-01-01T24:00", "no such date", REFUSED),
    # what is one only for those who guess
    _time("run_at", "2030-01-01T00:00:00", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "2030-01-01", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "2030-01-01T00:00:00 +01:00", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "2030-01-01T00:00:00,5Z", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "2030-01-01T00:00:00.0000000001Z", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "2030-01-01T00:00:00Z\n", FORM, NOT_READ_AS_RFC3339),
    _time("run_at", "\u0662\u0660\u0663\u0660-01-01T00:00:00Z", FORM, REFUSED),
    _time("run_at", "1900000000", FORM, REFUSED),
    _time("run_at", 1_900_000_000, FORM, REFUSED, cli=NO_TYPES),
    _time("run_at", True, FORM, REFUSED, cli=NO_TYPES),
    _time("start_at", "2030-01-01T00:00:00", FORM, NOT_READ_AS_RFC3339),
    _time("end_at", 1_900_000_000, FORM, REFUSED, cli=NO_TYPES),
    _time("run_at_local", "2030-01-01T00:00:00Z", "without an offset", NOT_READ_AS_RFC3339),
    _time("run_at_local", "2030-01-01T00:00:00+01:00", "without an offset", NOT_READ_AS_RFC3339),
    _time("run_at_local", "2030-01-01", "without an offset", NOT_READ_AS_RFC3339),
    _time("run_at_local", 1_900_000_000, "without an offset", REFUSED, cli=NO_TYPES),
    # out of all bounds
    _time("run_at", "9999-12-31T23:59:59Z", "2000 to 2199", REFUSED),
    _time("run_at", "9999-12-31T23:59:59-01:00", "no such date", NOT_READ_AS_RFC3339),
    _time("run_at", "2200-01-01T00:00:00Z", "2000 to 2199", REFUSED),
    _time("run_at", "1999-12-31T23:59:59Z", "2000 to 2199", REFUSED),
    _time("run_at", "1970-01-01T00:00:00Z", "2000 to 2199", REFUSED),
    _time("start_at", "1999-12-31T23:59:59Z", "2000 to 2199", REFUSED),
    _time("end_at", "9999-12-31T23:59:59Z", "2000 to 2199", REFUSED),
    _time("run_at_local", "9999-12-31T23:59:59", "2000 to 2199", REFUSED),
    _time("run_at_local", "1999-12-31T23:59:59", "2000 to 2199", REFUSED),
    _time("run_at", "2020-01-01T00:00:00Z", "more than a year", "taken: it is overdue, as after a long outage"),
    _time("run_at_local", "2020-01-01T00:00:00", "more than a year", "taken: it is overdue, as after a long outage"),
    Bad("in_s -1", {"in_s": -1}, "in_s", "greater than or equal to 0", "none: no column"),
    Bad("in_s 1e10", {"in_s": 10_000_000_000}, "in_s", "less than or equal to", "none: no column"),
    Bad("in_s '5'", {"in_s": "5"}, "in_s", "expected a number", "none: no column", cli="--in takes 5 and 5s"),
    # against one another
    Bad("no kind", {}, "run_at", "exactly one of", REFUSED),
    Bad("two kinds", {"cron": "* * * * *", "every_s": 5}, "every_s", "exactly one of", REFUSED),
    Bad("two times", {"run_at": "2030-01-01T00:00:00Z", "cron": "@daily"}, "cron", "exactly one of", REFUSED),
    Bad("rrule beside", {"every_s": 60, "rrule": "FREQ=DAILY"}, "rrule", "exactly one of", REFUSED),
    Bad(
        "end_at is start_at",
        {"every_s": 60, "start_at": "2030-01-01T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"},
        "end_at",
        "later than start_at",
        REFUSED,
    ),
    Bad(
        "nothing between",
        {"cron": "0 0 1 1 *", "start_at": "2030-02-01T00:00:00Z", "end_at": "2030-03-01T00:00:00Z"},
        "end_at",
        "no occurrence between",
        PARKED,
    ),
    Bad("end_at over", {"cron": "* * * * *", "end_at": "2020-01-01T00:00:00Z"}, "end_at", NEVER, "taken: it is over"),
    Bad(
        "run_at after end_at",
        {"run_at": "2030-01-01T00:00:00Z", "end_at": "2029-01-01T00:00:00Z"},
        "end_at",
        "no occurrence between",
        "none: it is looked at, and parked, when it is due",
    ),
    Bad(
        "in the gap",
        {"run_at_local": "2030-03-31T02:30:00", "timezone": "Europe/Berlin", "dst_gap": "skip"},
        "run_at_local",
        "skipped by a clock change",
        PARKED,
    ),
    Bad("both of one", {"run_at_local": "2030-01-01T00:00:00", "dst_fold": "both"}, "dst_fold", "both", PARKED),
]
WHOLE, BOUNDS = "expected a whole number", "greater than|less than"
NUMBERS = [
    *(Bad(f"every_s {n}", {"every_s": n}, "every_s", "greater than or equal to 1", REFUSED) for n in (0, -1)),
    *(Bad(f"every_s {n}", {"every_s": n}, "every_s", "31536000", REFUSED) for n in (31_536_001, 2**63, 10**30)),
    Bad("every_s 2.5", {"every_s": 2.5}, "every_s", "whole number|integer", "none: the server rounds it"),
    Bad("every_s '10'", {"every_s": "10"}, "every_s", WHOLE, NUMBER, cli=NO_TYPES),
    Bad("every_s true", {"every_s": True}, "every_s", WHOLE, NUMBER, cli=NO_TYPES),
    Bad("every_s 'abc'", {"every_s": "abc"}, "every_s", "whole number|integer", REFUSED),
    *(_every("jitter_s", n, BOUNDS, REFUSED) for n in (-1, 86_401, 2**63)),
    _every("jitter_s", None, WHOLE, REFUSED, cli=NOT_GIVEN),
    *(_every("max_runs", n, BOUNDS, REFUSED) for n in (-1, 0, 2**32)),
    _every("max_runs", False, WHOLE, REFUSED, cli=NO_TYPES),
]
DATES = "write a date such as"
OPTIONS = [
    _every("dst_gap", "sometimes", "run_after", REFUSED),
    _every("dst_gap", "", "run_after", REFUSED),
    _every("dst_gap", None, "expected a text", REFUSED, cli=NOT_GIVEN),
    _every("dst_gap", "run_after_a_while", "9 characters", REFUSED),
    _every("dst_fold", "never", "first, last", REFUSED),
    _every("dst_fold", "BOTH", "first, last", REFUSED),
    *(
        _every("exclude", [text], DATES, PARKED)
        for text in ("", "01.05.2030", "2030-02-30", "2030-5-1", "1999-12-31", "2030-05-02/2030-05-01", "\u0662-01-01")
    ),
    _every("exclude", ["2030-01-01"] * 401, "at most 400", PARKED),
    _every("exclude", "2030-01-01", "expected a list", PARKED, cli=NO_TYPES),
    _every("exclude", [5], "expected a text", PARKED, cli=NO_TYPES),
    Bad(
        "nothing left",
        {"cron": "0 12 1 5 *", "start_at": "2030-01-01T00:00:00Z", "end_at": "2030-12-31T00:00:00Z",
         "exclude": ["2030-05-01"]},
        "exclude",
        "takes away every occurrence",
        PARKED,
    ),
    *(
        Bad(f"rrule {ascii(rrule)[:40]}", {"rrule": rrule}, "rrule", words, PARKED)
        for rrule, words in (
            ("", "must not be empty"),
            ("DAILY", "FREQ"),
            ("FREQ=SECONDLY", "every_s or cron"),
            ("FREQ=DAILY;INTERVAL=0", "INTERVAL"),
            ("FREQ=DAILY;COUNT=2;UNTIL=20400101", "COUNT and UNTIL"),
            ("FREQ=DAILY;UNTIL=20300231", "UNTIL"),
            ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", NEVER),
            ("DTSTART:20300101T000000\nRRULE:FREQ=DAILY", "one line"),
        )
    ),
    Bad("rrule of 511", {"rrule": "FREQ=DAILY;" + "X" * 500}, "rrule", "500", REFUSED),
    _every("misfires", 5, "no such field", "none: no column", cli="the option itself is unknown"),
]  # fmt: skip
ANY_TEXT = "taken: there tags are any text of at most 500 characters"
POLICIES = [
    *(_every("misfire", word, "'skip', 'once' or 'all'", REFUSED) for word in ("", "never", "ONCE")),
    _every("misfire", "once ", "'skip', 'once' or 'all'", "none: the column has no room for the space and drops it"),
    _every("misfire", "all ", "'skip', 'once' or 'all'", REFUSED),
    _every("misfire", None, "'skip', 'once' or 'all'", REFUSED, cli=NOT_GIVEN),
    _every("misfire", 1, "'skip', 'once' or 'all'", REFUSED, cli=NO_TYPES),
    *(_every("max_misfires", n, BOUNDS, REFUSED) for n in (-1, 0, 10_001, 2**63)),
    _every("max_misfires", 2.5, "whole number|integer", "none: the server rounds it"),
    _every("max_misfires", "5", WHOLE, NUMBER, cli=NO_TYPES),
    _every("max_misfires", True, WHOLE, NUMBER, cli=NO_TYPES),
    _every("max_misfires", None, WHOLE, REFUSED, cli=NOT_GIVEN),
    *(_every("max_lateness_s", n, BOUNDS, REFUSED) for n in (-1, 0, 31_536_001, 2**63)),
    _every("max_lateness_s", 1.5, "whole number|integer", "none: the server rounds it"),
    _every("max_lateness_s", "5m", "whole number|integer", REFUSED),
    *(
        _every("overlap", word, "'queue_one' or 'replace'", REFUSED)
        for word in ("", "no", "Skip", "queue-one", "skip ", "allow ")
    ),
    _every("overlap", None, "'queue_one' or 'replace'", REFUSED, cli=NOT_GIVEN),
    _every("overlap", False, "'queue_one' or 'replace'", REFUSED, cli=NO_TYPES),
    *(_every("pause_after_failures", n, BOUNDS, REFUSED) for n in (-1, 0, 1001, 2**63)),
    _every("pause_after_failures", True, WHOLE, NUMBER, cli=NO_TYPES),
    _every("pause_after_failures", "3", WHOLE, NUMBER, cli=NO_TYPES),
    *(
        _every("tags", [tag], "letters, digits", ANY_TEXT)
        for tag in ("a b", "a,b", "\u00e9", "a\n", "%", "<b>", "\u202egat")
    ),
    _every("tags", [""], "must not be empty", "none: an empty text is no tag"),
    _every("tags", ["x" * 25], "24 characters", ANY_TEXT),
    _every("tags", [f"t{n}" for n in range(21)], "at most 20", ANY_TEXT),
    _every("tags", [f"{n:024}" for n in range(21)], "at most 20", REFUSED),
    _every("tags", ["\udcff"], "surrogate", CANNOT_BE_SENT, http=HALF),
    _every("tags", [5], "expected a text", "none: a column holds text", cli=NO_TYPES),
    _every("tags", "a", "expected a list", "none: one tag is a list of one there", cli=NO_TYPES),
    _every("tags", None, "expected a list", REFUSED, cli=NOT_GIVEN),
]
ANY_NAME = "taken: there it is any text, which is escaped wherever it is shown"
NOT_KNOWN = "taken: a name that no consumer knows fails its runs, and says so"
EMPTY_KEY = "none: an empty text is a key like any other there"
WORK = [
    *(_every("timeout_s", n, BOUNDS, REFUSED) for n in (-1, 0, 86_401, 10**9, 2**63, 10**30)),
    *(_every("max_failures", n, BOUNDS, REFUSED) for n in (-1, 0, 1001, 65_536, 2**63)),
    *(_every("backoff_s", n, BOUNDS, REFUSED) for n in (-1, 86_401, 2**63)),
    *(_every("backoff_max_s", n, BOUNDS, REFUSED) for n in (-1, 604_801, 2**63)),
    *(_every(f, 2.5, "whole number|integer", "none: the server rounds it") for f in ("timeout_s", "max_failures")),
    *(_every(f, "10", WHOLE, NUMBER, cli=NO_TYPES) for f in ("timeout_s", "backoff_s", "backoff_max_s")),
    *(_every(f, True, WHOLE, NUMBER, cli=NO_TYPES) for f in ("timeout_s", "max_failures", "backoff_s")),
    *(_every(f, None, WHOLE, REFUSED, cli=NOT_GIVEN) for f in ("timeout_s", "max_failures", "backoff_s")),
    _every("queue", "", "must not be empty", REFUSED),
    *(_every("queue", q, "letters, digits", NOT_KNOWN) for q in ("a/b", "a b", "\u00e9", "a\n", "\x1b[2J", "*")),
    _every("queue", "x" * 65, "64 characters", REFUSED),
    _every("queue", None, "expected a text", REFUSED, cli=NOT_GIVEN),
    *(
        _every("name", n, "cannot be printed", ANY_NAME)
        for n in ("a\nb", "\u202eevil", "a\u200bb", "\x1b[2J", "\u2028")
    ),
    _every("name", "a\x00b", "cannot be printed", ANY_NAME, cli=NO_NUL),
    _every("name", " a", "begins or ends with a space", ANY_NAME),
    _every("name", "x" * 201, "200 characters", REFUSED),
    _every("name", "\udcff", "surrogate|printed", CANNOT_BE_SENT, http=HALF),
    _every("task_key", "", "must not be empty", EMPTY_KEY),
    *(_every("task_key", k, "cannot be printed", ANY_NAME) for k in ("a\r\nb", "\u202e")),
    _every("task_key", "a ", "begins or ends with a space", ANY_NAME),
    _every("task_key", "x" * 201, "200 characters", REFUSED),
    _every("payload", "x" * 65_535, "65536", PARKED, cli="--payload is JSON, and has its own tests"),
    _every("payload", _nested(21), "20 levels", "taken: there up to 100 levels", cli="as above"),
]
GROUPS = {"cron": CRON, "zones": ZONES, "times": TIMES, "numbers": NUMBERS, "options": OPTIONS, "policies": POLICIES}
GROUPS["work"] = WORK
BAD = [case for group in GROUPS.values() for case in group]


def columns(document: dict[str, Any]) -> dict[str, Any]:
    """The document as columns; moments, which are UTC there, without their offset."""
    found = dict(document)
    for name, value in document.items():
        if name.endswith("_at") and isinstance(value, str):
            found[name] = value.removesuffix("Z")
        elif name == "payload":
            found[name] = json.dumps(value)
        elif name == "exclude" and value is not None:
            found[name] = value if isinstance(value, str) else json.dumps(value)
        elif name == "tags" and isinstance(value, list):
            found[name] = ",".join(value)
    return found
