"""Many registrations of one request, which mostly differ in a few fields: what they have in common is judged once.

What is in doubt is judged whole, by `registration`; so is what is refused, for only that knows the words for it.
"""

from datetime import datetime
from typing import Any

from clockjack import webhooks
from clockjack.moments import moment
from clockjack.registration import OLDEST, fields, new_task, payload_text

OWN = frozenset(("run_at", "payload", "task_key", "name"))
TIMED = ("start_at", "end_at", "exclude", "jitter_s")  # with these run_at is not all that decides when a task is due


class Alike:
    """Judges registrations that come at `now` (naive UTC)."""

    def __init__(self, now: datetime) -> None:
        self._now, self._oldest = now, now - OLDEST
        self._known: dict[str, dict[str, Any]] = {}

    def fields(self, sent: Any) -> dict[str, Any]:
        """What `registration.fields` makes of it, or Refused."""
        if not isinstance(sent, dict) or not isinstance(sent.get("run_at"), str):
            return fields(new_task(sent), self._now)
        rest = repr({name: value for name, value in sent.items() if name not in OWN})
        known = self._known.get(rest)
        found = known and self._own(known, sent)
        if not found:
            found = fields(new_task(sent), self._now)
            if not any(found[name] for name in TIMED):
                self._known[rest] = found
        return found

    def _own(self, known: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any] | None:
        """The values of one that is otherwise like a good one; None if it is not as plain as that."""
        key, name, payload = sent.get("task_key"), sent.get("name"), sent.get("payload")
        try:
            run_at, text = moment(sent["run_at"]), payload_text(payload)
            if known["handler"] == webhooks.HANDLER:
                webhooks.judge(payload)
        except ValueError:
            return None
        if run_at < self._oldest or not (key is None or _printable(key)) or not (name is None or _printable(name)):
            return None
        return known | {"run_at": run_at, "payload": text, "task_key": key, "name": name}


def _printable(text: Any) -> bool:
    return isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() and text == text.strip()
