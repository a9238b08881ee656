"""`python -m tests.prove.producer [name …]`: what other services build on: one line each, with its figure.

The exit code is 0 only if all hold. `--small` tries them with small numbers, to see that they work: no proof.
"""

import sys

from tests.prove import effects
from tests.prove.deaths import PLACES
from tests.prove.proofs import Proof, main


def proofs(*, small: bool) -> tuple[Proof, ...]:
    """The proofs, or a try of each with small numbers."""
    runs, lives = (120, len(PLACES)) if small else (500, 3 * len(PLACES))
    found = (
        Proof(
            "counter",
            "500 runs that count through run.transaction(), killed at every statement of start, work and finish:"
            " counter = succeeded runs",
            lambda stage: effects.counter(stage, runs, lives),
        ),
        Proof(
            "counter-frozen",
            "a consumer stopped between its last statement and COMMIT, past its lease: counted once, by another",
            effects.frozen,
        ),
    )
    return tuple(proof._replace(what=f"small, no proof: {proof.what}") for proof in found) if small else found


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--small"]
    sys.exit(main(proofs(small="--small" in sys.argv[1:]), names))
