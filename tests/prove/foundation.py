"""`python -m tests.prove.foundation [name …]`: each proof prints one line: what, its figure, `holds` or `falls short`.

The exit code is 0 only if all hold. PROVE_JSON=file writes the same as JSON. Every proof begins with an emptied
database and an emptied Redis, runs real processes, and counts what ran from the lines that the handlers wrote.
"""

import sys

from tests.prove import away, contention, durability, edits, kills, leases, stops, switches
from tests.prove.proofs import Proof, main

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
        "redis-away",
        "90 s without Redis under 100 runs/s of every kind: 0 lost, 0 twice, ≤ due + 10 s",
        away.redis_away,
    ),
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


if __name__ == "__main__":
    sys.exit(main(PROOFS, sys.argv[1:]))
