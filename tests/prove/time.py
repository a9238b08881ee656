"""`python -m tests.prove.time [name …]`: the proofs of schedules and policies, one line each.

The exit code is 0 only if all hold. `--small` tries them with small numbers, to see that they work: no proof.
"""

import subprocess
import sys
from collections.abc import Callable

from tests.prove import catch_up, history
from tests.prove.proofs import Proof, main
from tests.prove.stage import ROOT


def oracle(*arguments: str, lines: int = 1) -> Callable[[], tuple[str, bool]]:
    """The last `lines` that the oracle of the unit tests printed, called like this, and whether it was content."""

    def ask() -> tuple[str, bool]:
        argv = [sys.executable, "-m", "tests.unit.cron_oracle", *arguments]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        said = (done.stdout or done.stderr).splitlines()
        return "; ".join(line.strip() for line in said[-lines:]), done.returncode == 0

    return ask


def proofs(*, small: bool) -> tuple[Proof, ...]:
    """The proofs, or a try of each with small numbers."""
    windows = "400" if small else "20000"
    found = (
        Proof(
            "oracle",
            "cron as a walk through every minute, near the clock changes of every zone: 0 differences",
            oracle("--windows", windows, lines=2),
            staged=False,
        ),
        Proof(
            "second-opinion",
            "cronsim on the same windows: every difference has a known reason",
            lambda: second_opinion(windows),
            staged=False,
        ),
        Proof("cost", "next_after: ≤ 20 µs beside raw croniter", oracle("--cost", lines=4), staged=False),
        Proof(
            "overlap-claim",
            "100,000 tasks with overlap = skip and 3,000,000 past runs: claim p99 ≤ 1.2 × allow without history",
            lambda stage: history.overlap_claim(stage, history.SMALL if small else history.FULL),
        ),
        Proof(
            "catch-up",
            "1 h of 20,000 every-minute tasks is made up for: on-time starts meanwhile p99 ≤ 2 s, none > 10 s",
            lambda stage: catch_up.catch_up(stage, tasks=1_000 if small else 20_000),
        ),
    )
    return tuple(proof._replace(what=f"small, no proof: {proof.what}") for proof in found) if small else found


def second_opinion(windows: str) -> tuple[str, bool]:
    """cronsim's tally without its examples."""
    figure, holds = oracle("--cronsim", "--windows", windows, lines=100)()
    kept = [line for line in figure.split("; ") if not line.startswith("'")]
    return "; ".join(kept), holds


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--small"]
    sys.exit(main(proofs(small="--small" in sys.argv[1:]), names))
