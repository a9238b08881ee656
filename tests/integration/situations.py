"""The cases of the interleavings: what can be done to a task and its run, and how far these have come by then."""

from collections.abc import Callable

from clockjack.ledger.control import cancel, edit, pause, resume
from tests.integration.world import BEGIN, World, values

HOURLY, HALF_PAST = {"cron": "0 * * * *"}, {"cron": "30 * * * *"}
DUE = BEGIN.replace(hour=12, minute=0, second=0)

# operations: what is done by whom; `side` is 0 for A and 1 for B

Operation = Callable[[World, int], object]


def off(why: str, work: Operation) -> Operation:
    """After its acknowledgement nothing of the old schedule may start."""

    def done(w: World, side: int) -> None:
        work(w, side)
        w.off, w.old_due = {w.first: (why, w.time.seconds())}, frozenset({DUE})

    return done


def dispatcher(w: World, side: int) -> object:
    return (w.d1, w.d2)[side]


def hand_back(w: World, side: int) -> None:
    w.w1.stopping = True
    w.w1.tick()
    w.w1.step()


def finish(w: World, side: int) -> None:
    w.w1.end()


def fail(w: World, side: int) -> None:
    w.w1.end(fails=True)


def turn(w: World, side: int) -> None:
    """A consumer's step: it starts what it pops and writes what its handler said, in one transaction."""
    consumer = (w.w1, w.w2)[side]
    for job in consumer.pool.running():
        consumer.pool.end(job)
    consumer.take()


def again(w: World, side: int) -> None:
    """What is looked at is pushed, and another consumer takes it."""
    dispatcher(w, side).look_step()
    consume(w, side)


def consume(w: World, side: int) -> None:
    consumer = (w.w2, w.w3)[side]
    consumer.take()


CONTROL: dict[str, Operation] = {
    "register": off("edited", lambda w, s: w.register(task_key="k", **HALF_PAST)),
    "register_same": lambda w, s: w.register(task_key="k", **w.fields),
    "register_other": lambda w, s: w.register(task_key="other", **HOURLY),
    "edit": off("edited", lambda w, s: w.change(edit, values(**HALF_PAST), task_id=w.first)),
    "edit_work": lambda w, s: w.change(edit, values(payload='{"n":2}'), task_id=w.first),
    "pause": off("paused", lambda w, s: w.change(pause, task_id=w.first)),
    "resume": lambda w, s: w.change(resume, task_id=w.first),
    "catch_up": lambda w, s: w.change(resume, task_id=w.first, catch_up=True),
    "cancel": off("cancelled", lambda w, s: w.change(cancel, task_id=w.first)),
    "run_now": lambda w, s: w.run_now(w.first),
}
WORK: dict[str, Operation] = {
    "claim": lambda w, s: dispatcher(w, s).claim_step(),
    "release": lambda w, s: dispatcher(w, s).release_step(),
    "look": lambda w, s: dispatcher(w, s).look_step(),
    "stage": lambda w, s: w.queues.push(w.ready, w.clock.now_us()),
    "consume": consume,
    "again": again,
    "turn": turn,
    "beat": lambda w, s: w.w1.beat(),
    "finish": finish,
    "fail": fail,
    "hand_back": hand_back,
    "begin": lambda w, s: w.w1.pool.begin(),
}
ON = {
    "resume",
    "catch_up",
    "register",
    "register_same",
    "edit",
    "edit_work",
}  # by some a cancelled task is active
ENDS = {"register", "edit", "pause", "resume", "catch_up", "cancel"}  # the run that is due need not run


# situations: how far the run that is due at DUE has come, and what can happen then


def due(w: World, **fields: object) -> None:
    """The task is due and not claimed."""
    w.fields = HOURLY | fields
    w.register(task_key="k", **w.fields)
    w.first = w.task()["id"]
    w.ready = []
    w.on((DUE - w.time.at).total_seconds() + 0.2)


def staged(w: World, **fields: object) -> None:
    """The run is claimed and staged, and not released in time: it is looked at."""
    w.fields = HOURLY | fields
    w.register(task_key="k", **w.fields)
    w.first = w.task()["id"]
    w.on((DUE - w.time.at).total_seconds() - 4)
    push, w.ready = w.d1.queues.push, []
    w.d1.queues.push = lambda ready, now_us: (w.ready.extend(ready), push(ready, now_us))[1]
    w.d1.claim_step()
    del w.d1.queues.push
    assert w.ready
    w.on(8.2)


def queued(w: World, **fields: object) -> None:
    """The run is in its queue for so long that it is looked at."""
    staged(w, **fields)
    w.d1.release_step()


def waiting(w: World, **fields: object) -> None:
    """A consumer has started the run and not begun it; its message is there twice, and it is looked at."""
    queued(w, **fields)
    w.w1.pop()
    assert w.w1.pool.waiting
    w.queues.redis.delete(f"rq:job:r{w.ready[0].run_id}-a1")
    w.queues.push(w.ready, w.clock.now_us())


def running(w: World, **fields: object) -> None:
    """A consumer executes the run; its message is there twice, and it is looked at."""
    waiting(w, **fields)
    w.w1.pool.begin()
    assert w.w1.pool.running()


def lost(w: World) -> None:
    """The lease of the consumer that executes the run is over, and the run is looked at."""
    running(w)
    w.on(6.5)


def retry(w: World) -> None:
    """The run has failed once and is to be tried again now."""
    running(w)
    w.w1.end(fails=True)
    w.on(0.5)


def backing_off(w: World) -> None:
    """The run has failed once and waits for a minute; its first message is there once more."""
    running(w, backoff_s=60, backoff_max_s=60)
    w.w1.end(fails=True)
    w.queues.redis.delete(f"rq:job:r{w.ready[0].run_id}-a1")
    w.queues.push(w.ready, w.clock.now_us())


def paused(w: World) -> None:
    """The task was paused before its run was due, and a dispatcher has seen that."""
    w.fields = HOURLY
    w.register(task_key="k", **w.fields)
    w.first, w.ready = w.task()["id"], []
    w.change(pause)
    w.on((DUE - w.time.at).total_seconds() + 1)
    w.d1.claim_step()
    assert w.task()["missed_since"] == DUE


def overlapping(policy: str) -> Callable[[World], None]:
    def make(w: World) -> None:
        queued(w, overlap=policy)
        w.run_now()
        w.on(0.1)
        w.d1.look_step()
        # the run by hand is begun, the one that was due is in the queue
        w.queues.redis.lrem("rq:queue:default", 0, f"r{w.ready[0].run_id}-a1")
        w.w1.take()
        assert len(w.w1.pool.running()) == 1
        w.queues.push(w.ready, w.clock.now_us())
        w.on(4.2)

    make.__doc__ = f"A run of a task whose runs must not overlap ({policy}) is executed; the next one is queued."
    return make


def replaced(w: World) -> None:
    """Of a task whose runs replace one another one has failed and is queued again, before the next one."""
    w.w2.pool.size = w.w3.pool.size = 1
    overlapping("replace")(w)
    w.w1.end(fails=True)
    w.on(0.1)
    w.d1.look_step()
    w.queues.redis.rpoplpush("rq:queue:default", "rq:queue:default")
    assert w.queues.redis.llen("rq:queue:default") == 2


def zombies(w: World) -> None:
    """Two consumers execute a run each, both leases are over, and the queue holds the next attempt of each.

    `turn` of the first starts the second's run and gives its own outcome, and the other way round.
    """
    w.w1.pool.size = w.w2.pool.size = 1
    w.fields = HOURLY | {"misfire": "all"}
    w.register(task_key="k", **w.fields)
    w.first, w.ready = w.task()["id"], []
    w.on((DUE - w.time.at).total_seconds() + 0.2)
    w.d1.claim_step()
    w.w1.take()
    w.register(task_key="other", run_at=w.time.at)
    w.d1.claim_step()
    w.w2.take()
    w.on(7)
    w.d1.look_step()
    w.queues.redis.rpoplpush("rq:queue:default", "rq:queue:default")
    assert [len(c.pool.running()) for c in w.consumers] == [1, 1, 0]
    assert w.queues.redis.lrange("rq:queue:default", 0, -1)[0] == f"r{w.w2.pool.running()[0].held.run_id}-a2".encode()


CHANGES = ["register", "edit", "pause", "cancel", "run_now"]
STEPS = ["claim", "look", "consume"]
HOLDER = ["beat", "finish", "fail"]
SITUATIONS: dict[str, tuple[Callable[[World], None], list[str]]] = {
    "due": (due, ["claim", *(name for name in CONTROL if name not in ("resume", "catch_up"))]),
    "paused": (paused, ["claim", *(name for name in CONTROL if name not in ("pause", "register_other"))]),
    "staged": (staged, [*STEPS, "release", "stage", *CHANGES]),
    "queued": (queued, [*STEPS, "release", *CHANGES]),
    "waiting": (waiting, [*STEPS, "begin", "hand_back", "beat", *CHANGES]),
    "running": (running, [*STEPS, *HOLDER, "stage", *CHANGES]),
    "lost": (lost, ["look", "again", *HOLDER, *CHANGES]),
    "zombies": (zombies, ["turn", "look", "beat", *CHANGES]),
    "retry": (retry, ["look", "again", *CHANGES]),
    "replace": (overlapping("replace"), [*STEPS, *HOLDER, *CHANGES]),
    "replaced": (replaced, [*STEPS, *CHANGES]),
    "backing_off": (backing_off, [*STEPS, *CHANGES]),
    "queue_one": (overlapping("queue_one"), [*STEPS, *HOLDER, *CHANGES]),
}
