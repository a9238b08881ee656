"""The command `clockjack`. What needs no server starts without loading what talks to them."""

import sys

LINES = ["next", "--stdin"]


def main() -> None:
    """Runs the command and ends the process with its exit code."""
    if sys.argv[1:] != LINES:
        from clockjack.cli import main as command

        command()
    from clockjack.lines import serve

    try:
        serve(sys.stdin.buffer, sys.stdout)
    except BrokenPipeError:  # whoever read has had enough
        sys.stdout = None  # or Python would complain of it at the end
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
