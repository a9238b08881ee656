"""How long a request is tried, and what its answers mean. It waits for nothing itself: both clients ask it."""

import random
import time
from typing import Any

import httpx2

AGAIN = {429, 502, 503}
IN_FLIGHT = "idempotency-key-in-flight"  # 409: the same request, sent before, has no answer yet
LONGEST_WAIT_S = 5.0


class ClientError(Exception):
    """The answer was a problem, or none came; `status` is 0 when nobody answered. `errors` names the wrong fields."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.code = str(problem.get("code", ""))
        self.title = str(problem.get("title", ""))
        self.detail = str(problem.get("detail", ""))
        self.errors: list[dict[str, str]] = problem.get("errors") or []
        super().__init__(f"{status} {self.code or self.title}: {self.detail}" if status else self.detail)


class Attempts:
    """One request, sent again for `patience_s` at most."""

    def __init__(self, patience_s: float) -> None:
        self._give_up_s = time.monotonic() + patience_s
        self._wait_s = 0.1

    def no_answer(self, error: httpx2.TransportError) -> float:
        """Seconds to wait before it is sent again; ClientError when patience is at its end."""
        return self._pause_s(ClientError(0, {"detail": f"no answer: {error or type(error).__name__}"}), 0.0)

    def refused(self, response: httpx2.Response) -> float:
        """The same of an answer that is a problem; ClientError at once of one that would come again."""
        failed = ClientError(response.status_code, _problem(response))
        if response.status_code not in AGAIN and failed.code != IN_FLIGHT:
            raise failed
        return self._pause_s(failed, min(_seconds(response.headers.get("retry-after")), LONGEST_WAIT_S))

    def _pause_s(self, failed: ClientError, least_s: float) -> float:
        self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
        pause_s = max(self._wait_s, least_s) * random.uniform(0.5, 1.0)
        if time.monotonic() + pause_s > self._give_up_s:
            raise failed
        return pause_s


def _problem(response: httpx2.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"title": response.reason_phrase, "detail": response.text[:200]}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdecimal() else 0.0
