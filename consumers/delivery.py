"""The handler `http`: one delivery to a URL, or signed to an endpoint, and what the answer means.

- The endpoint's rule says which status is a success (2xx without one); everything else is a failure and is retried.
- `Retry-After` is taken at its word, up to an hour.
- 410 Gone is over at once: the endpoint is disabled, and runs that name a disabled endpoint fail without a call.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from clockjack import endpoints, targets, webhooks
from clockjack.endings import Ending, Fail, Retry
from clockjack.handlers import Run
from clockjack.ledger.clock import Unavailable
from clockjack.ledger.tasks import StateConflict
from clockjack.targets import BadTarget, Policy
from consumers import posting
from consumers.handling import HandlerError
from consumers.receivers import Receivers

GONE = 410
SHORTEST_RETRY_AFTER_S, LONGEST_RETRY_AFTER_S = 1.0, 3_600.0
ERROR_CHARS = 500  # of an answer's body, in the error


class Delivery:
    """Delivers for one process. `now_us` is the database's time: receivers compare it with theirs."""

    def __init__(self, policy: Policy, now_us: Callable[[], int], receivers: Receivers | None = None) -> None:
        self._policy, self._now_us, self._receivers = policy, now_us, receivers

    def __call__(self, run: Run) -> dict[str, Any]:
        """The receiver has taken it: the status and the beginning of what it said. What is raised says why not."""
        try:
            call = webhooks.read(run.payload)
            endpoint = self._endpoint(run, call.endpoint) if call.endpoint else None
            target = call.target or targets.read(endpoint.url if endpoint else "")
            answer = posting.send(target, self._policy, call.body, self._headers(run, call, endpoint), run.timeout_s)
        except (webhooks.BadCall, BadTarget, posting.PostFailed) as error:
            raise HandlerError(f"http: {error}") from None
        if endpoints.succeeds(endpoint.success if endpoint else "2xx", answer.status):
            return {"status": answer.status} | ({"body": answer.body} if answer.body else {})
        raise self._failure(run, endpoint, f"http: {target.netloc} answered {answer.status}", answer)

    def _endpoint(self, run: Run, name: str) -> endpoints.Opened:
        if self._receivers is None:
            raise HandlerError("http: endpoints are not known here")
        try:
            found = self._receivers.find(run.namespace, name)
        except (StateConflict, Unavailable) as error:
            raise HandlerError(f"http: {error}") from None
        if found is None:
            raise HandlerError(f"http: there is no endpoint {name!r}")
        if found.state != "enabled":
            why = f" ({found.reason})" if found.reason else ""
            raise Fail(f"http: the endpoint {name!r} is disabled{why}")
        return found

    def _headers(self, run: Run, call: webhooks.Call, endpoint: endpoints.Opened | None) -> dict[str, str]:
        fixed = {"Idempotency-Key": run.key, "webhook-id": run.key}
        if endpoint is not None:
            timestamp = self._now_us() // 1_000_000
            fixed |= {"webhook-timestamp": str(timestamp)} | endpoint.headers
            fixed["webhook-signature"] = endpoints.signature(endpoint.secrets, run.key, timestamp, call.body)
        return webhooks.dressed(call, fixed)

    def _failure(
        self, run: Run, endpoint: endpoints.Opened | None, text: str, answer: posting.Answer
    ) -> HandlerError | Ending:
        if answer.status == GONE:
            if endpoint is not None and self._receivers is not None:
                self._receivers.gone(run.namespace, endpoint)
                text += f": the endpoint {endpoint.name!r} is disabled now"
            return Fail(text)
        if answer.body:
            text += f": {answer.body[:ERROR_CHARS]}"
        after_s = retry_after_s(answer.retry_after, self._now_us())
        return HandlerError(text) if after_s is None else Retry(after_s, text)


def retry_after_s(text: str | None, now_us: int) -> float | None:
    """How many seconds the receiver asks for (a number or a date), 1 to 3,600; None when it does not say."""
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return _bounded(float(text[:10]))
    try:
        when = parsedate_to_datetime(text)
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)
        wait_s = (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return _bounded(wait_s)


def _bounded(wait_s: float) -> float:
    return min(max(wait_s, SHORTEST_RETRY_AFTER_S), LONGEST_RETRY_AFTER_S)
