"""What a change of a zone's clocks does: literal facts.

From cron(8), from zone changes as the pinned tzdata has them, and from counting minutes by hand; all agree with the
oracle that walks every minute.
"""

from datetime import datetime

import pytest

from clockjack.schedules import Schedule, ScheduleError, next_after, validate
from tests.unit.schedule_tables import fires, rows, utc

# zone | start by the zone's clocks | expression | what fires strictly after it (UTC, without the year and month)
CLOCK_CHANGES = """
Europe/Berlin       | 2026-03-29T00:00 | 30 2 * * *         | 29T01:00 30T00:30
Europe/Berlin       | 2026-03-29T00:00 | 0 2 * * *          | 29T01:00 30T00:00
Europe/Berlin       | 2026-03-29T00:00 | 30 2,3 * * *       | 29T01:00 29T01:30
Europe/Berlin       | 2026-03-29T00:00 | 5,35 2 * * *       | 29T01:00 30T00:05 30T00:35
Europe/Berlin       | 2026-03-29T00:00 | 0 2,3 * * *        | 29T01:00 30T00:00
Europe/Berlin       | 2026-03-29T00:00 | 0 */2 * * *        | 29T02:00 29T04:00
Europe/Berlin       | 2026-03-29T00:00 | */30 2 * * *       | 30T00:00 30T00:30
Europe/Berlin       | 2026-03-29T00:00 | * 2 * * *          | 30T00:00 30T00:01
Europe/Berlin       | 2026-03-29T00:30 | 30 * * * *         | 29T00:30 29T01:30 29T02:30
Europe/Berlin       | 2026-03-29T01:30 | */30 * * * *       | 29T01:00 29T01:30
Europe/Berlin       | 2026-03-29T00:00 | @daily             | 29T22:00 30T22:00
Europe/Berlin       | 2026-03-29T00:00 | @hourly            | 29T00:00 29T01:00 29T02:00
Europe/Berlin       | 2026-03-29T00:00 | 15 30 2 * * *      | 29T01:00:15 30T00:30:15
Europe/Berlin       | 2026-03-29T00:00 | */20 5,35 2 * * *  | 29T01:00:00 30T00:05:00 30T00:05:20
Europe/Berlin       | 2026-10-25T00:00 | 30 2 * * *         | 25T00:30 26T01:30
Europe/Berlin       | 2026-10-25T00:00 | 30 2-4 * * *       | 25T00:30 25T02:30 25T03:30
Europe/Berlin       | 2026-10-25T00:00 | 5,35 2 * * *       | 25T00:05 25T00:35 26T01:05 26T01:35
Europe/Berlin       | 2026-10-25T00:00 | 0-59/30 1-3 * * *  | 24T23:00 24T23:30 25T00:00 25T00:30 25T02:00 25T02:30
Europe/Berlin       | 2026-10-25T00:00 | 0 * * * *          | 24T23:00 25T00:00 25T01:00 25T02:00
Europe/Berlin       | 2026-10-25T01:30 | */30 * * * *       | 25T00:00 25T00:30 25T01:00 25T01:30 25T02:00
Europe/Berlin       | 2026-10-25T00:00 | 0 */2 * * *        | 25T00:00 25T01:00 25T03:00
Europe/Berlin       | 2026-10-25T00:00 | */30 2 * * *       | 25T00:00 25T00:30 25T01:00 25T01:30
Europe/Berlin       | 2026-10-25T00:00 | 15 30 2 * * *      | 25T00:30:15 26T01:30:15
America/New_York    | 2026-03-08T00:00 | 30 2 * * *         | 08T07:00 09T06:30
America/New_York    | 2026-11-01T00:00 | 30 1 * * *         | 01T05:30 02T06:30
America/New_York    | 2026-11-01T00:30 | 0 * * * *          | 01T05:00 01T06:00 01T07:00
Africa/Cairo        | 2026-04-23T12:00 | 0 0 * * *          | 23T22:00 24T21:00
Africa/Cairo        | 2026-04-23T12:00 | 0 0 * * 5          | 23T22:00 30T21:00
Africa/Cairo        | 2026-04-23T12:00 | 0 0 24 4 *         | 2026-04-23T22:00 2027-04-23T22:00
Africa/Cairo        | 2026-10-29T22:00 | 30 23 * * *        | 29T20:30 30T21:30
Africa/Cairo        | 2024-10-31T23:45 | 30 * L * *         | 31T21:30 29T22:30
Australia/Lord_Howe | 2026-10-04T00:00 | 15 2 * * *         | 03T15:30 04T15:15
Australia/Lord_Howe | 2026-10-04T00:00 | 0 * * * *          | 03T14:30 03T16:00 03T17:00
Australia/Lord_Howe | 2026-04-05T00:50 | 45 1 * * *         | 04T14:45 05T15:15
Australia/Lord_Howe | 2018-04-01T00:50 | 24,44 * * * *      | 31T14:24 31T14:44 31T15:14 31T15:54
Antarctica/Troll    | 2026-03-29T00:00 | 30 1,2 * * *       | 29T01:00 29T23:30
Antarctica/Troll    | 2024-10-27T00:10 | 0 0,1 * * *        | 26T23:00 28T00:00
Antarctica/Troll    | 2024-10-27T01:58 | * 0,1 * * *        | 26T23:59 27T01:00 27T01:01
Antarctica/Casey    | 2018-10-07T00:00 | 30 5 * * *         | 06T20:00 07T18:30
Antarctica/Casey    | 2020-03-08T00:00 | 30 1 * * *         | 07T14:30 08T17:30
Pacific/Apia        | 2011-12-29T00:00 | 0 12 * * *         | 29T22:00 30T22:00 31T22:00
Pacific/Apia        | 2011-12-29T13:00 | 0 12 30 12 *       | 2012-12-29T22:00
Europe/Dublin       | 2026-10-25T00:00 | 30 1 * * *         | 25T00:30 26T01:30
Asia/Beirut         | 2024-03-30T22:00 | */30 1 * * *       | 30T22:00 30T22:30
America/Havana      | 2026-11-01T00:00 | 59 0 * * *         | 01T04:59 02T04:59
Europe/Riga         | 2021-03-28T00:00 | 0 1,2,3,4,5 * * *  | 27T23:00 28T00:00 28T01:00 28T02:00
Europe/Riga         | 2021-03-28T01:00 | 30 1,2,3,4,5 * * * | 27T23:30 28T00:30 28T01:00 28T01:30 28T02:30
Europe/Riga         | 2021-10-31T01:00 | 0 1,2,3,4,5 * * *  | 30T23:00 31T00:00 31T02:00 31T03:00
Europe/Riga         | 2021-10-31T00:00 | 0 */3 * * *        | 31T00:00 31T01:00 31T04:00
Antarctica/Casey    | 2018-03-11T00:00 | 30 2 * * *         | 10T15:30 11T18:30
Antarctica/Casey    | 2018-03-11T00:00 | 0 */2 * * *        | 10T15:00 10T18:00 10T20:00 10T22:00
Antarctica/Casey    | 2018-10-07T00:00 | 30 1-6 * * *       | 06T17:30 06T18:30 06T19:30 06T20:00
Antarctica/Casey    | 2023-03-09T00:00 | 0 0-4 * * *        | 08T14:00 08T15:00 08T19:00 08T20:00
Antarctica/Troll    | 2026-03-29T00:30 | */30 * * * *       | 29T01:00 29T01:30 29T02:00 29T02:30
Antarctica/Troll    | 2026-10-25T00:30 | 30 1,2 * * *       | 24T23:30 25T00:30 26T01:30 26T02:30
Antarctica/Vostok   | 2023-12-18T00:00 | 30 0 * * *         | 17T17:30 18T19:30
Antarctica/Vostok   | 2023-12-18T00:00 | 30 */1 * * *       | 17T17:30 17T18:30 17T19:30 17T20:30
Australia/Lord_Howe | 2026-04-05T01:00 | 15,45 1 * * *      | 04T14:15 04T14:45 05T14:45 05T15:15
Australia/Lord_Howe | 2026-04-05T01:00 | */15 1 * * *       | 04T14:15 04T14:30 04T14:45 04T15:00
Australia/Lord_Howe | 2026-10-04T01:30 | 0,20,40 2 * * *    | 03T15:30 03T15:40 04T15:00 04T15:20
Australia/Lord_Howe | 2026-10-04T01:30 | */10 * * * *       | 03T15:10 03T15:20 03T15:30 03T15:40
Pacific/Apia        | 2011-12-29T00:00 | 0 */12 * * *       | 29T22:00 30T10:00 30T22:00 31T10:00
Pacific/Apia        | 2020-09-27T00:00 | 30 3 * * *         | 26T14:00 27T13:30
Pacific/Apia        | 2021-04-04T00:00 | 30 3 * * *         | 03T13:30 04T14:30
Pacific/Fakaofo     | 2011-12-29T00:00 | 30 6 * * FRI,SAT   | 30T17:30 05T17:30
Africa/Cairo        | 2023-04-27T12:00 | 15 0 * * *         | 27T22:00 28T21:15
Africa/Cairo        | 2023-04-27T12:00 | */30 0 * * *       | 28T21:00 28T21:30 29T21:00 29T21:30
Africa/Cairo        | 2023-04-27T12:00 | 59 23,0 * * *      | 27T21:59 27T22:00 28T20:59 28T21:59
Africa/Cairo        | 2026-10-29T12:00 | 0 0 * * *          | 29T22:00 30T22:00
Africa/Cairo        | 2026-10-29T12:00 | 0 0 30 10 *        | 29T22:00 2027-10-29T22:00
America/Havana      | 2026-03-07T12:00 | 0 0 * * *          | 08T05:00 09T04:00
America/Havana      | 2026-03-07T12:00 | 30 0 * * SUN       | 08T05:00 15T04:30
America/Havana      | 2024-11-02T12:00 | 0 0 * * *          | 03T04:00 04T05:00
America/Havana      | 2024-11-02T12:00 | */20 0 * * *       | 03T04:00 03T04:20 03T04:40 03T05:00
America/Havana      | 2024-11-02T12:00 | 0 1 * * *          | 03T06:00 04T06:00
America/Sao_Paulo   | 2018-11-03T12:00 | 0 0 * * *          | 04T03:00 05T02:00
America/Sao_Paulo   | 2018-11-03T12:00 | 0 0,1 * * *        | 04T03:00 05T02:00
America/Sao_Paulo   | 2019-02-16T12:00 | 30 23 * * *        | 17T01:30 18T02:30
America/Santiago    | 2026-09-05T12:00 | 0 0 * * *          | 06T04:00 07T03:00
America/Santiago    | 2026-04-04T12:00 | 30 23 * * SAT      | 05T02:30 12T03:30
America/Asuncion    | 2024-03-23T12:00 | 30 23 * * *        | 24T02:30 25T03:30
America/Asuncion    | 2024-10-05T12:00 | 30 0 * * *         | 06T04:00 07T03:30
America/Caracas     | 2016-05-01T00:00 | 45 2 * * *         | 01T07:00 02T06:45
America/Caracas     | 2016-05-01T02:00 | */15 * * * *       | 01T06:45 01T07:00 01T07:15 01T07:30
Asia/Pyongyang      | 2015-08-14T12:00 | 45 23 * * *        | 14T14:45 15T15:15
Asia/Pyongyang      | 2018-05-04T12:00 | 45 23 * * *        | 04T15:00 05T14:45
Asia/Pyongyang      | 2018-05-04T22:00 | */30 * * * *       | 04T14:00 04T14:30 04T15:00 04T15:30
Asia/Gaza           | 2026-03-28T00:00 | 30 2 * * *         | 28T00:00 28T23:30
Asia/Gaza           | 2026-02-27T00:00 | 30 2 * * *         | 27T00:30 28T00:30
Asia/Tehran         | 2022-03-21T12:00 | 30 0 * * *         | 21T20:30 22T20:00
Asia/Tehran         | 2022-09-21T12:00 | 30 23 * * *        | 21T19:00 22T20:00
Asia/Beirut         | 2026-03-28T12:00 | 0 0 * * *          | 28T22:00 29T21:00
Asia/Almaty         | 2024-02-29T12:00 | 30 23 * * *        | 29T17:30 01T18:30
Asia/Famagusta      | 2016-09-08T00:00 | 0 3 * * *          | 08T00:00 09T00:00
Europe/Istanbul     | 2016-09-08T00:00 | 0 3 * * *          | 08T00:00 09T00:00
Europe/Istanbul     | 2026-03-29T00:00 | 30 3 * * *         | 29T00:30 30T00:30
Europe/Volgograd    | 2018-10-28T00:00 | 30 2 * * *         | 27T23:00 28T22:30
Europe/Volgograd    | 2020-12-27T00:00 | 30 1 * * *         | 26T21:30 27T22:30
Europe/London       | 2026-03-29T00:00 | 30 1 * * *         | 29T01:00 30T00:30
Europe/London       | 2026-10-25T00:00 | 30 1 * * *         | 25T00:30 26T01:30
Europe/Lisbon       | 2026-03-29T00:00 | 30 1 * * *         | 29T01:00 30T00:30
Europe/Dublin       | 2026-03-29T00:00 | 30 1 * * *         | 29T01:00 30T00:30
Atlantic/Azores     | 2026-03-29T00:00 | 0 0 * * *          | 30T00:00 31T00:00
Atlantic/Azores     | 2026-03-28T22:00 | 30 0 * * *         | 29T01:00 30T00:30
America/Nuuk        | 2024-03-30T12:00 | 30 23 * * *        | 31T01:00 01T00:30
America/Nuuk        | 2026-03-28T12:00 | 30 23 * * *        | 29T01:00 30T00:30
America/Nuuk        | 2026-10-24T12:00 | 30 23 * * *        | 25T00:30 26T01:30
America/Scoresbysund | 2024-03-30T22:00 | 30 23,0 * * *      | 31T00:30 31T01:30 01T00:30 01T01:30
America/St_Johns    | 2026-03-08T00:00 | 30 2 * * *         | 08T05:30 09T05:00
America/St_Johns    | 2006-04-02T00:00 | 0,30 0 * * *       | 02T03:31 03T02:30
America/New_York    | 2026-03-08T00:00 | 0 */3 * * *        | 08T07:00 08T10:00 08T13:00 08T16:00
America/New_York    | 2026-11-01T00:00 | 0 1,2 * * *        | 01T05:00 01T07:00 02T06:00 02T07:00
America/New_York    | 2026-11-01T00:00 | 0,59 0-3 * * *     | 01T04:59 01T05:00 01T05:59 01T07:00
America/Phoenix     | 2026-03-08T00:00 | 30 2 * * *         | 08T09:30 09T09:30
America/Los_Angeles | 2026-03-08T00:00 | 0 2 8-14 3 SUN     | 08T10:00 09T09:00
Africa/Casablanca   | 2026-02-15T00:00 | 30 2 * * *         | 15T01:30 16T02:30
Africa/Casablanca   | 2026-03-22T00:00 | 30 2 * * *         | 22T02:00 23T01:30
Africa/Juba         | 2021-01-31T12:00 | 30 23 * * *        | 31T20:30 01T21:30
Africa/Sao_Tome     | 2018-01-01T00:00 | 30 1 * * *         | 01T01:00 02T00:30
Africa/Sao_Tome     | 2019-01-01T00:00 | 30 1 * * *         | 01T00:30 02T01:30
Africa/Monrovia     | 2026-03-29T00:00 | 30 2 * * *         | 29T02:30 30T02:30
Pacific/Chatham     | 2026-04-05T00:00 | 0 3 * * *          | 04T13:15 05T14:15
Pacific/Chatham     | 2026-09-27T00:00 | 0 3 * * *          | 26T14:00 27T13:15
Pacific/Norfolk     | 2015-10-04T00:00 | 45 1 * * *         | 03T14:15 04T14:45
Pacific/Norfolk     | 2026-10-04T00:00 | 30 2 * * *         | 03T15:00 04T14:30
Pacific/Fiji        | 2019-11-10T00:00 | 30 2 * * *         | 09T14:00 10T13:30
Pacific/Tongatapu   | 2017-01-15T00:00 | 30 2 * * *         | 14T12:30 15T13:30
Pacific/Auckland    | 2026-09-27T00:00 | 30 2 * * *         | 26T14:00 27T13:30
Asia/Kathmandu      | 2026-01-01T00:00 | 0 0 * * *          | 01T18:15 02T18:15
Asia/Kolkata        | 2026-01-01T00:00 | 30 9 * * MON-FRI   | 01T04:00 02T04:00
"""

# the same with dst_gap and dst_fold
OPTIONS = """
Antarctica/Casey    | 2018-03-11T00:00 | 30 2 * * *         | run_after last | 10T18:30 11T18:30
Antarctica/Casey    | 2018-10-07T00:00 | 30 1-6 * * *       | skip first     | 06T17:30 06T18:30 06T19:30 07T14:30
Antarctica/Casey    | 2020-03-08T00:00 | 30 1 * * *         | run_after both | 07T14:30 07T17:30 08T17:30 09T17:30
Antarctica/Troll    | 2026-03-29T00:00 | 0 2 * * *          | skip first     | 30T00:00 31T00:00
Antarctica/Troll    | 2026-10-25T00:30 | 30 1,2 * * *       | run_after last | 25T01:30 25T02:30 26T01:30 26T02:30
Antarctica/Troll    | 2026-10-25T00:30 | 30 1,2 * * *       | run_after both | 24T23:30 25T00:30 25T01:30 25T02:30
Australia/Lord_Howe | 2026-04-05T01:00 | 15,45 1 * * *      | run_after last | 04T14:15 04T15:15 05T14:45 05T15:15
Australia/Lord_Howe | 2026-04-05T01:00 | 15,45 1 * * *      | run_after both | 04T14:15 04T14:45 04T15:15 05T14:45
Australia/Lord_Howe | 2026-10-04T01:30 | 0,20,40 2 * * *    | skip first     | 03T15:40 04T15:00
Africa/Cairo        | 2023-04-27T12:00 | 15 0 * * *         | skip first     | 28T21:15 29T21:15
Africa/Cairo        | 2026-10-29T12:00 | 30 23 * * *        | run_after last | 29T21:30 30T21:30
Africa/Cairo        | 2026-10-29T12:00 | 30 23 * * *        | run_after both | 29T20:30 29T21:30 30T21:30 31T21:30
America/Havana      | 2026-03-07T12:00 | @daily             | skip first     | 09T04:00 10T04:00
America/Havana      | 2024-11-02T12:00 | 0 0 * * *          | run_after both | 03T04:00 03T05:00 04T05:00 05T05:00
America/Havana      | 2024-11-02T12:00 | 0 0 * * *          | run_after last | 03T05:00 04T05:00
Asia/Pyongyang      | 2015-08-14T12:00 | 45 23 * * *        | run_after last | 14T15:15 15T15:15
Europe/Dublin       | 2026-10-25T00:00 | 30 1 * * *         | run_after last | 25T01:30 26T01:30
America/St_Johns    | 2026-11-01T00:00 | 30 1 * * *         | run_after both | 01T04:00 01T05:00 02T05:00 03T05:00
America/New_York    | 2026-03-08T00:00 | 0 2,3 * * *        | skip first     | 08T07:00 09T06:00
America/New_York    | 2026-11-01T00:00 | 30 1 * * *         | run_after last | 01T06:30 02T06:30
America/New_York    | 2026-11-01T00:00 | 30 1 * * *         | run_after both | 01T05:30 01T06:30 02T06:30 03T06:30
America/New_York    | 2026-11-01T00:00 | */30 1 * * *       | skip last      | 01T05:00 01T05:30 01T06:00 01T06:30
Pacific/Chatham     | 2026-04-05T00:00 | 0 3 * * *          | run_after last | 04T14:15 05T14:15
Pacific/Auckland    | 2026-04-05T00:00 | 30 2 * * *         | run_after both | 04T13:30 04T14:30 05T14:30 06T14:30
Europe/Berlin       | 2026-03-29T00:00 | 30 2 * * *         | skip first     | 30T00:30 31T00:30
Europe/Berlin       | 2026-03-29T00:00 | 30 2,3 * * *       | skip first     | 29T01:30 30T00:30
Europe/Berlin       | 2026-03-29T00:00 | */30 2 * * *       | skip last      | 30T00:00 30T00:30 31T00:00 31T00:30
Europe/Berlin       | 2026-10-25T00:00 | 30 2 * * *         | run_after last | 25T01:30 26T01:30
Europe/Berlin       | 2026-10-25T00:00 | 30 2 * * *         | run_after both | 25T00:30 25T01:30 26T01:30 27T01:30
Europe/Berlin       | 2026-10-25T00:00 | 5,35 2 * * *       | run_after last | 25T01:05 25T01:35 26T01:05 26T01:35
Europe/Berlin       | 2026-10-25T00:00 | 30 1-3 * * *       | run_after both | 24T23:30 25T00:30 25T01:30 25T02:30
Europe/Berlin | 2026-10-25T00:00 | 15,45 30 2 * * * | run_after both | 25T00:30:15 25T00:30:45 25T01:30:15 25T01:30:45
Europe/Berlin       | 2026-10-25T00:00 | 0 3 * * *          | run_after last | 25T02:00 26T02:00
"""


def found(schedule: Schedule, after: datetime, expected: str) -> tuple[list[str], list[str]]:
    """What fires, and what should, written alike."""
    texts = [text if text.count(":") == 2 else f"{text}:00" for text in expected.split()]
    instants = [instant.isoformat() for instant in fires(schedule, after, len(texts))]
    return [instant[-len(text) :] for instant, text in zip(instants, texts, strict=True)], texts


@pytest.mark.parametrize(("zone", "start", "cron", "expected"), rows(CLOCK_CHANGES))
def test_clock_changes(zone: str, start: str, cron: str, expected: str) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    validate(schedule)
    got, texts = found(schedule, utc(zone, start), expected)
    assert got == texts


@pytest.mark.parametrize(("zone", "start", "cron", "options", "expected"), rows(OPTIONS))
def test_options_for_clock_changes(zone: str, start: str, cron: str, options: str, expected: str) -> None:
    gap, fold = options.split()
    schedule = Schedule(cron=cron, timezone=zone, dst_gap=gap, dst_fold=fold)
    validate(schedule)
    got, texts = found(schedule, utc(zone, start), expected)
    assert got == texts


# zone | run_at_local | dst_gap dst_fold | the instant at which it runs (UTC)
LOCAL = """
Europe/Berlin       | 2026-07-01T09:00 |                 | 2026-07-01T07:00
Europe/Berlin       | 2026-12-01T09:00 |                 | 2026-12-01T08:00
Europe/Berlin       | 2026-03-29T02:30 |                 | 2026-03-29T01:00
Europe/Berlin       | 2026-03-29T02:00 |                 | 2026-03-29T01:00
Europe/Berlin       | 2026-03-29T03:00 | skip first      | 2026-03-29T01:00
Europe/Berlin       | 2026-10-25T02:30 |                 | 2026-10-25T00:30
Europe/Berlin       | 2026-10-25T02:30 | run_after last  | 2026-10-25T01:30
Europe/Berlin       | 2026-10-25T03:00 | run_after last  | 2026-10-25T02:00
Europe/Berlin       | 2026-10-25T01:59 | run_after last  | 2026-10-24T23:59
Africa/Cairo        | 2026-04-24T00:30 |                 | 2026-04-23T22:00
Africa/Cairo        | 2026-10-29T23:30 | run_after last  | 2026-10-29T21:30
Australia/Lord_Howe | 2026-10-04T02:15 |                 | 2026-10-03T15:30
Antarctica/Troll    | 2026-10-25T02:30 | skip last       | 2026-10-25T02:30
Antarctica/Casey    | 2018-10-07T05:00 |                 | 2018-10-06T20:00
Pacific/Apia        | 2011-12-30T12:00 |                 | 2011-12-30T10:00
Asia/Kathmandu      | 2026-06-01T00:00 |                 | 2026-05-31T18:15
Pacific/Kiritimati  | 2026-01-01T00:00 |                 | 2025-12-31T10:00
"""


@pytest.mark.parametrize(("zone", "wall", "options", "expected"), rows(LOCAL))
def test_one_time_by_the_wall_clock(zone: str, wall: str, options: str, expected: str) -> None:
    gap, fold = (options or "run_after first").split()
    schedule = Schedule(run_at_local=datetime.fromisoformat(wall), timezone=zone, dst_gap=gap, dst_fold=fold)
    validate(schedule)
    instant = datetime.fromisoformat(expected)
    assert fires(schedule, datetime(2000, 1, 1), 9) == [instant]
    assert next_after(schedule, instant) is None


@pytest.mark.parametrize(("zone", "wall", "options", "field"), [
    ("Europe/Berlin", "2026-03-29T02:30", "skip first", "run_at_local"),
    ("Pacific/Apia", "2011-12-30T12:00", "skip first", "run_at_local"),
    ("Europe/Berlin", "2026-10-25T02:30", "run_after both", "dst_fold"),
    ("Europe/Berlin", "2026-10-25T02:30", "run_after later", "dst_fold"),
    ("Europe/Berlin", "2026-10-25T02:30", "later first", "dst_gap"),
])  # fmt: skip
def test_what_cannot_run_once_is_refused(zone: str, wall: str, options: str, field: str) -> None:
    gap, fold = options.split()
    schedule = Schedule(run_at_local=datetime.fromisoformat(wall), timezone=zone, dst_gap=gap, dst_fold=fold)
    with pytest.raises(ScheduleError) as refused:
        validate(schedule)
    assert refused.value.field == field


# zone | DTSTART by the zone's clocks | rule | dst_gap dst_fold | what fires (UTC, without the year and month)
RECURRENCES = """
Europe/Berlin       | 2026-03-28T02:30 | FREQ=DAILY                     |                | 28T01:30 29T01:00 30T00:30
Europe/Berlin       | 2026-03-28T02:30 | FREQ=DAILY                     | skip first     | 28T01:30 30T00:30
Europe/Berlin | 2026-03-29T01:00 | FREQ=DAILY;BYHOUR=1,2;BYMINUTE=0,30 | | 29T00:00 29T00:30 29T01:00 29T23:00
Europe/Berlin | 2026-03-29T00:30 | FREQ=HOURLY | | 28T23:30 29T00:30 29T01:30 29T02:30
Europe/Berlin       | 2026-03-29T01:30 | FREQ=MINUTELY;INTERVAL=15;BYHOUR=2 |            | 30T00:00 30T00:15 30T00:30
Europe/Berlin       | 2026-10-24T02:30 | FREQ=DAILY                     |                | 24T00:30 25T00:30 26T01:30
Europe/Berlin       | 2026-10-24T02:30 | FREQ=DAILY                     | run_after last | 24T00:30 25T01:30 26T01:30
Europe/Berlin       | 2026-10-24T02:30 | FREQ=DAILY;COUNT=2             | run_after both | 24T00:30 25T00:30 25T01:30
Europe/Berlin | 2026-10-25T01:30 | FREQ=HOURLY | | 24T23:30 25T00:30 25T01:30 25T02:30
Europe/Berlin | 2026-10-25T02:00 | FREQ=MINUTELY;INTERVAL=30;COUNT=2 | | 25T00:00 25T00:30 25T01:00 25T01:30
Europe/Berlin       | 2026-10-25T02:00 | FREQ=MINUTELY;INTERVAL=30;UNTIL=20261025T003000Z | | 25T00:00 25T00:30
Europe/Berlin|2026-10-25T02:00|FREQ=MINUTELY;INTERVAL=30;UNTIL=20261025T023000| | 25T00:00 25T00:30 25T01:00 25T01:30
Africa/Cairo        | 2026-04-17T00:00 | FREQ=WEEKLY;BYDAY=FR           |                | 16T22:00 23T22:00 30T21:00
America/New_York    | 2026-02-08T02:30 | FREQ=MONTHLY;BYDAY=2SU         |                | 08T07:30 08T07:00 12T06:30
America/New_York    | 2026-10-04T01:30 | FREQ=MONTHLY;BYDAY=1SU         |                | 04T05:30 01T05:30 06T06:30
Antarctica/Troll | 2026-03-28T01:30 | FREQ=DAILY;BYHOUR=1,2 | | 28T01:30 28T02:30 29T01:00 29T23:30
Australia/Lord_Howe | 2026-10-03T02:15 | FREQ=DAILY                     |                | 02T15:45 03T15:30 04T15:15
"""


@pytest.mark.parametrize(("zone", "start", "rrule", "options", "expected"), rows(RECURRENCES))
def test_recurrences_at_clock_changes(zone: str, start: str, rrule: str, options: str, expected: str) -> None:
    gap, fold = (options or "run_after first").split()
    begin = utc(zone, start)
    schedule = Schedule(rrule=rrule, timezone=zone, start_at=begin, dst_gap=gap, dst_fold=fold)
    validate(schedule)
    got, texts = found(schedule, datetime(2000, 1, 1), expected)
    assert got == texts
    if "UNTIL" in rrule or "COUNT" in rrule:
        assert len(fires(schedule, datetime(2000, 1, 1), 99)) == len(texts)
