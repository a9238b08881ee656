"""`python -m tests.prove.foundation [name …]`: each proof prints one line: what, its figure, `holds` or `falls short`.

The exit code is 0 only if all hold. PROVE_JSON=file writes the same as JSON. Every proof begins with an emptied
database and an emptied Redis, runs real processes, and counts what ran from the lines that the handlers wrote.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.prove import contention, durability, edits, kills, leases, stops, switches
from tests.prove.stage import Stage


class Proof(NamedTuple):
    """A name for the command line, what is claimed, and the function that tries it: (figure, whether it holds)."""

    name: str
    what: str
    run: Callable[[Stage], tuple[str, bool]]


PROOFS = (
    Proof(
        "dispatcher-killed",
        "20 × a dispatcher killed after COMMIT, before staging: ≤ due + 6 s",
        kills.dispatcher_killed,
    ),
    Proof("consumer-killed", "a consumer killed between pop and start: ≤ due + 10 s", kills.consumer_killed),
    Proof(
        "edited",
        "200 tasks edited inside the look-ahead window: no claim loop, no lost neighbour",
        edits.edited_in_the_window,
    ),
    Proof("flushall", "FLUSHALL in the middle of a burst: nothing lost, ≤ due + 10 s", kills.flushall),
    Proof(
        "frozen-select", "a dispatcher frozen after the SELECT of its claim: ≤ due + 10 s", kills.frozen_after_select
    ),
    Proof(
        "frozen-insert", "a dispatcher frozen after the INSERT of its claim: ≤ due + 10 s", kills.frozen_after_insert
    ),
    Proof(
        "frozen-start",
        "a consumer frozen between UPDATE and COMMIT of its start: ≤ due + 10 s",
        kills.frozen_before_commit,
    ),
    Proof(
        "lease",
        "consumers stopped past their lease: outcomes refused and counted, one stays",
        leases.stopped_past_its_lease,
    ),
    Proof(
        "database-killed",
        "kill -9 of the database during 5,000 registrations: 0 lost, 0 twice",
        durability.database_killed,
    ),
    Proof("off", "200 tasks paused or cancelled around their due time: 0 started > 2 s after", switches.off_is_off),
    Proof(
        "full-load",
        "2 dispatchers, 4 consumers, 20,000 tasks: 0 deadlocks, claim p99 ≤ 1.5 × alone",
        contention.full_load,
    ),
    Proof("sigterm", "SIGTERM of each process under load loses nothing", stops.sigterm),
    Proof(
        "sigterm-inside",
        "SIGTERM of a consumer while its main thread is inside an Event: it ends, 0 lost",
        stops.sigterm_at_a_bad_moment,
    ),
    Proof("added-consumer", "a consumer added live shortens the backlog", stops.added_consumer),
)


def main(names: Sequence[str]) -> int:
    """The proofs of these names, or all, were tried; 0 only if all hold."""
    if unknown := set(names) - {proof.name for proof in PROOFS}:
        print(f"no proof {', '.join(sorted(unknown))}; there are: {', '.join(p.name for p in PROOFS)}", file=sys.stderr)
        return 2
    begun, lines = time.monotonic(), []
    stage = Stage()
    try:
        for proof in PROOFS:
            if not names or proof.name in names:
                lines.append(_try(stage, proof))
    finally:
        if all(line["holds"] for line in lines):
            stage.close()
        else:
            stage.end()
            print(f"logs: {stage.home}", file=sys.stderr)
    held = sum(bool(line["holds"]) for line in lines)
    print(f"{held} of {len(lines)} proofs hold ({time.monotonic() - begun:.0f} s)")
    if file := os.environ.get("PROVE_JSON"):
        Path(file).write_text(json.dumps(lines, indent=1))
    return 0 if held == len(lines) else 1


def _try(stage: Stage, proof: Proof) -> dict[str, object]:
    begun = time.monotonic()
    try:
        stage.empty()
        figure, holds = proof.run(stage)
    except Exception as error:
        traceback.print_exc()
        figure, holds = f"could not be tried: {type(error).__name__}: {error}".splitlines()[0], False
    spent_s = time.monotonic() - begun
    print(
        f"{proof.name:17} {proof.what}: {figure} [{spent_s:.0f} s]: {'holds' if holds else 'falls short'}", flush=True
    )
    return {"name": proof.name, "what": proof.what, "figure": figure, "seconds": round(spent_s, 1), "holds": holds}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
