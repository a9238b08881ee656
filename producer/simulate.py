"""The route that says what would become of a schedule's occurrences."""

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from clockjack import documents, registration, trial
from clockjack.ledger.database import Database
from clockjack.outlook import Simulated
from producer.describing import describe
from producer.requests import Sent, caller, document

MAX_ROWS = 1_000
router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


@router.post("/schedules/simulate", **describe({200: Simulated}, body=trial.Trial))
def simulate(request: Request, sent: Sent) -> Response:
    """What would run, be skipped or wait, by the decisions that production makes; at most 1,000 rows."""
    database: Database = request.app.state.database
    now = database.clock.now() if database.clock.known else database.now()
    wanted = registration.read(trial.Trial, document(sent.raw))
    return Response(documents.compact(trial.of_schedule(wanted, now, MAX_ROWS)), media_type="application/json")
