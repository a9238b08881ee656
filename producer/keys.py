"""Routes under /v1/keys: the API keys of a namespace, for keys of the scope admin. A key is in the answer that made it.

No Idempotency-Key here: an answer that is stored would have the key in it. One that was lost is revoked by its prefix.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from clockjack import documents, keys, registration
from clockjack.ledger import acceptance
from clockjack.ledger import keys as ledger
from producer import cursors
from producer.answers import found, json, schema
from producer.problems import Problem
from producer.requests import Asking, Sent, admin, document
from producer.tasks import Page, page

router = APIRouter(prefix="/v1", dependencies=[Depends(admin)])
_NEW, _ROTATION = schema(keys.NewKey), schema(keys.Rotation, required=False)
Prefix = Annotated[str, Path(pattern=r"^[A-Za-z0-9]{1,16}$")]


_MOMENT = {"type": "string", "format": "date-time"}
_MAYBE = {"type": ["string", "null"], "format": "date-time"}
_KEY: dict[str, Any] = {
    "key_prefix": {"type": "string", "description": "what names the key in paths, lists and logs"},
    "namespace": {"type": "string"},
    "name": {"type": "string"},
    "scope": {"enum": list(ledger.SCOPES)},
    "per_second": {"type": ["number", "null"]},
    "burst": {"type": ["integer", "null"]},
    "created_at": _MOMENT,
    "revoked_at": {**_MAYBE, "description": "from then on it opens nothing; ahead while a rotation overlaps"},
    "last_used_at": {**_MAYBE, "description": "exact to a minute"},
}
_API_KEY = {"api_key": {"type": "string", "description": "the key, this once"}}


def exactly(properties: dict[str, Any]) -> dict[str, Any]:
    """The schema of an object that has these properties and no other."""
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


SCHEMAS = {
    "Key": exactly(_KEY),
    "NewKey": exactly(_KEY | _API_KEY),
    "RotatedKey": exactly(_KEY | _API_KEY | {"former": {"$ref": "#/components/schemas/Key"}}),
    "Keys": exactly(
        {
            "items": {"type": "array", "items": {"$ref": "#/components/schemas/Key"}},
            "next_cursor": {"type": ["string", "null"]},
        }
    ),
}


@router.post("/keys", status_code=201, openapi_extra=_NEW)
def create(request: Request, asking: Asking, sent: Sent) -> Response:
    """There is a new key of this namespace; the answer has it, this once."""
    new = registration.read(keys.NewKey, document(sent.raw))
    return _made(_change(request, lambda c: keys.create(c, asking.namespace, new)))


@router.get("/keys")
def list_keys(request: Request, asking: Asking, wanted: Annotated[Page, Query()]) -> Response:
    """The keys of this namespace, the newest first, revoked ones too, without what could be used to sign in."""
    before = cursors.read(wanted.cursor)
    items = acceptance.read(
        request.app.state.database,
        lambda c: ledger.list_keys(c, asking.namespace, before_id=before, limit=wanted.limit),
    )
    after = items[-1]["id"] if len(items) == wanted.limit else None
    return page(request, [keys.document(row) for row in items], after)


@router.get("/keys/{key_prefix}")
def get(request: Request, asking: Asking, key_prefix: Prefix) -> Response:
    """The key, without what could be used to sign in."""
    row = acceptance.read(request.app.state.database, lambda c: ledger.get(c, key_prefix, asking.namespace))
    return json(keys.document(found(row)))


@router.post("/keys/{key_prefix}/rotate", status_code=201, openapi_extra=_ROTATION)
def rotate(request: Request, asking: Asking, sent: Sent, key_prefix: Prefix) -> Response:
    """A new key does what this one does, which is valid for `overlap_s` more; the answer has it, this once."""
    wanted = registration.read(keys.Rotation, document(sent.raw) if sent.raw.strip() else {})
    return _made(_change(request, lambda c: keys.rotate(c, key_prefix, wanted, asking.namespace)))


@router.delete("/keys/{key_prefix}")
def revoke(request: Request, asking: Asking, key_prefix: Prefix) -> Response:
    """The key opens nothing any more, also if it was to be valid for a while; other producers know within 5 s."""
    return json(_change(request, lambda c: keys.revoke(c, key_prefix, asking.namespace)))


def _change(request: Request, body: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    try:
        return request.app.state.database.transaction(body)  # type: ignore[no-any-return]
    except keys.Unknown:
        raise Problem("not-found") from None


def _made(made: dict[str, Any]) -> Response:
    headers = {"Location": f"/v1/keys/{made['key_prefix']}", "Cache-Control": "no-store"}
    return Response(documents.compact(made), 201, headers, "application/json")
