"""What our worker relies on in RQ. When RQ changes one of these, this says so before production does."""

import inspect

import pytest
import rq
from rq.command import PUBSUB_CHANNEL_TEMPLATE, parse_payload
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker import Worker
from rq.worker.base import BaseWorker, WorkerStatus

from consumers.worker import BatchWorker

OVERRIDDEN = {
    "work": ["self", "burst", "logging_level", "date_format", "log_format", "max_jobs", "max_idle_time"],
    "_install_signal_handlers": ["self"],
    "request_stop": ["self", "signum", "frame"],
    "handle_payload": ["self", "message"],
    "execute_job": ["self", "job", "queue"],
    "clean_registries": ["self"],
    "teardown": ["self"],
}
CALLED = {
    "bootstrap": ["self", "logging_level"],
    "register_birth": ["self"],
    "_set_ip_address": ["self", "connection"],
    "heartbeat": ["self", "timeout"],
    "set_state": ["self", "state"],
    "register_death": ["self"],
}


def test_the_version_that_this_was_written_for() -> None:
    assert rq.VERSION.startswith("2.12.")


@pytest.mark.parametrize(("method", "parameters"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_the_methods_are_there_with_their_parameters(method: str, parameters: list[str]) -> None:
    found = list(inspect.signature(getattr(Worker, method)).parameters)
    assert found[: len(parameters)] == parameters


def test_exactly_these_are_overridden() -> None:
    ours = {n for n, v in vars(BatchWorker).items() if callable(v) and hasattr(Worker, n) and not n.startswith("__")}
    assert ours == set(OVERRIDDEN)


def test_nothing_but_those_pops_or_runs_jobs() -> None:
    """`bootstrap` registers and subscribes only; the loop that pops is in `work`, which is ours."""
    source = inspect.getsource(BaseWorker.bootstrap)
    assert "register_birth" in source
    assert "subscribe" in source
    assert "dequeue" not in source


def test_redis_keys_and_serializer() -> None:
    assert BaseWorker.redis_workers_keys == "rq:workers"
    assert PUBSUB_CHANNEL_TEMPLATE == "rq:pubsub:%s"
    assert Job.redis_job_namespace_prefix == "rq:job:"
    assert rq.Queue.redis_queue_namespace_prefix == "rq:queue:"
    assert rq.Queue.redis_queues_keys == "rq:queues"
    assert JSONSerializer.loads(b'["f", null, [1], {}]') == ["f", None, [1], {}]
    assert {WorkerStatus.BUSY, WorkerStatus.IDLE} <= set(WorkerStatus)
    assert parse_payload({"data": b'{"command": "shutdown"}'}) == {"command": "shutdown"}
