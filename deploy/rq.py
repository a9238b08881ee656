"""`python -m deploy.rq info|suspend|resume [-u REDIS_URL] …`: RQ's own commands, which run nothing that Redis holds.

Use it instead of `rq`, whose `info` unpickles what it finds and tidies up what MySQL looks after. Without -u it takes
CLOCKJACK_REDIS_URL.
"""

import os
import sys

from rq.cli import cli

import consumers.inert  # noqa: F401  RQ must be inert before it reads anything

COMMANDS = ("info", "suspend", "resume")


def main(argv: list[str]) -> int:
    """The exit code of the command; 2 for one that could change or run jobs, 1 for what cannot be read."""
    if not argv or argv[0] not in COMMANDS:
        print(f"rq: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    url = os.environ.get("CLOCKJACK_REDIS_URL")
    given = [] if "-u" in argv or "--url" in argv or not url else ["-u", url]
    try:
        cli.main([*argv, *given], "rq", standalone_mode=False)
    except ValueError as error:
        print(f"rq: refused, Redis holds something that is none of ours: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
