"""Importing this makes RQ inert in this process: whatever Redis holds, it unpickles, imports, calls and posts nothing.

RQ unpickles wherever nobody named a serializer, whatever its options say, and imports the callbacks that a job names
when it tidies its registries, which it does whenever it counts them: whoever can write to Redis could run code in
whoever looks. Clockjack uses none of it.
"""

from typing import Any

import rq.job
from rq import registry
from rq.serializers import DefaultSerializer, JSONSerializer


def _refuse(*_: Any, **__: Any) -> Any:
    raise ValueError("refused: Clockjack's jobs name no code to import")


DefaultSerializer.loads, DefaultSerializer.dumps = JSONSerializer.loads, JSONSerializer.dumps
vars(rq.job)["import_attribute"] = _refuse
for _kind in (
    registry.StartedJobRegistry,
    registry.FinishedJobRegistry,
    registry.FailedJobRegistry,
    registry.DeferredJobRegistry,
):
    _kind.cleanup = lambda *_, **__: None  # type: ignore[method-assign]
