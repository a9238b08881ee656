"""GET /v1/forecast: the load that is coming."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.responses import Response

from clockjack import described as says
from clockjack import documents, moments
from clockjack.ledger import acceptance, forecast
from clockjack.outlook import Forecast
from producer.describing import describe
from producer.requests import caller

router = APIRouter(prefix="/v1", dependencies=[Depends(caller)])


Due = Annotated[datetime, BeforeValidator(moments.moment), says.text("date-time", says.MOMENT)]


class Wanted(BaseModel):
    """Which part of the future is wanted."""

    model_config = ConfigDict(extra="forbid")
    bucket: Literal["1s", "1m"] = "1m"
    begin: Annotated[Due | None, Field(alias="from")] = None
    buckets: Annotated[int, Field(ge=1, le=forecast.MAX_BUCKETS)] = 60


@router.get("/forecast", **describe({200: Forecast}))
def coming_load(request: Request, wanted: Annotated[Wanted, Query()]) -> Response:
    """How many tasks are due next in each second or minute to come, over all namespaces."""

    def body(connection: Any) -> Any:
        return forecast.forecast(connection, wanted.bucket, begin=wanted.begin, buckets=wanted.buckets)

    found = documents.nested(acceptance.read(request.app.state.database, body))
    return Response(documents.compact(found), media_type="application/json")
