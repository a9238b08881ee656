"""Reminders of calendar events: a day, an hour and ten minutes before, by the wall clock of the event's place.

An event's reminders are one group. A moved event moves them all, or none; a dropped one takes them with it; what would
lie in the past is skipped, and the run says so.
"""

import time
from datetime import datetime, timedelta
from typing import Any

from clockjack import Client, Run, handler

QUEUE = "calendar"
BEFORE_S = (86_400, 3_600, 600)


@handler("calendar.remind")
def remind(run: Run) -> dict[str, Any]:
    """The guests are told. A receiver drops a second copy by the run's key."""
    event = run.payload
    return {"to": event["guests"], "text": f"{event['title']} is at {event['place']}", "key": run.key}


def save(
    client: Client, event_id: str, event: dict[str, Any], at: datetime, zone: str, before_s: tuple[int, ...] = BEFORE_S
) -> Any:
    """The event has exactly these reminders; `at` is what the clocks of `zone` show when it begins."""
    return client.put_group(
        f"event/{event_id}",
        "calendar.remind",
        event,
        anchor_at_local=at,
        timezone=zone,
        offsets_s=[-seconds for seconds in before_s],
        queue=QUEUE,
    )


def move(client: Client, event_id: str, at: datetime) -> Any:
    """The event begins at another time, and its reminders move with it."""
    return client.move_group(f"event/{event_id}", anchor_at_local=at)


def drop(client: Client, event_id: str) -> Any:
    """The event does not take place: nobody is reminded any more."""
    return client.cancel_group(f"event/{event_id}")


def said(client: Client, event_id: str) -> list[dict[str, Any]]:
    """What guests have been told of the event, in the order of the reminders."""
    members = client.group(f"event/{event_id}")["members"]
    return [run["result"] for m in members for run in client.runs(m["id"]) if run["state"] == "succeeded"]


def main() -> None:
    """An event in 16 s with reminders 12 and 6 s before, which is moved by 4 s."""
    with Client() as client:
        now = datetime.fromisoformat(client.forecast(buckets=1, bucket="1s")["buckets"][0]["at"])
        at = (now + timedelta(seconds=16)).replace(tzinfo=None)
        tea = {"title": "Tea", "place": "the garden", "guests": ["ann@example.org", "bob@example.org"]}
        save(client, "tea", tea, at, "UTC", (12, 6))
        group = move(client, "tea", at + timedelta(seconds=4))
        print("reminders at", [member["next_run_at"] for member in group["members"]])
        while len(told := said(client, "tea")) < 2:
            time.sleep(0.5)
        for one in told:
            print("told", one["to"], "that", one["text"])


if __name__ == "__main__":
    main()
