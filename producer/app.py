"""The HTTP application: the routes of /v1, and what operators ask (/healthz, /readyz, /metrics)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from clockjack import endpoints as receivers
from clockjack import webhooks, zones
from clockjack.ledger import acceptance, server
from clockjack.ledger.database import Database, Unavailable, UnknownCommit, code
from clockjack.queues import Queues, RedisError
from clockjack.rates import Rates
from clockjack.settings import Settings
from producer import (
    batches,
    control,
    endpoints,
    expectations,
    explain,
    explained,
    groups,
    keyed,
    keys,
    load,
    namespaces,
    openapi,
    problems,
    queueing,
    rates,
    reference,
    runs,
    simulate,
    tasks,
    tryout,
)
from producer.notices import Notices
from producer.requests import Doorkeeper
from producer.watch import Watch

THREADS = 16
DEGRADED = "cannot be reached or used: registration works, runs start when it is back"


def create_app(settings: Settings) -> FastAPI:
    """The application on the servers of `settings`; nothing is connected before it starts."""
    webhooks.configure(settings)
    database = Database(settings.database_url, size=THREADS + 2)  # the watch and /readyz never wait for the others
    queues = Queues(settings.redis_url)
    notices = Notices(queues)
    watch = Watch(database, unsafe_server=settings.unsafe_server)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
        app.state.readiness = anyio.CapacityLimiter(1)
        notices.start()
        watch.start()
        yield
        watch.stop()
        notices.stop()
        database.close()

    app = FastAPI(
        title="Clockjack", lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False, version="1"
    )
    app.state.database, app.state.queues = database, queues
    app.state.notices, app.state.watch = notices, watch
    app.state.seal = receivers.seal_of(settings)
    app.state.doorkeeper, app.state.rates = Doorkeeper(database), Rates(settings.redis_url)
    problems.install(app)
    app.add_middleware(rates.Told)  # around the other: problems have these headers, too
    app.router.routes.insert(0, Route("/v1/tasks", tasks.straight, methods=["POST"]))
    app.router.routes.insert(1, Route("/v1/tasks/bulk", batches.straight, methods=["POST"]))
    app.include_router(batches.router)
    app.include_router(keyed.router)  # before the routes of a task, whose id "by-key" would be
    app.include_router(tasks.router)
    app.include_router(runs.router)
    app.include_router(queueing.router)
    app.include_router(load.router)
    app.include_router(groups.router)
    app.include_router(explain.router)
    app.include_router(simulate.router)
    app.include_router(control.router)
    app.include_router(endpoints.router)
    app.include_router(expectations.router)
    app.include_router(keys.router)
    app.include_router(namespaces.router)
    app.include_router(explained.router)
    app.include_router(reference.router)
    app.include_router(tryout.router)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    for path, endpoint in (
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", metrics),
    ):
        app.add_api_route(path, endpoint, include_in_schema=False)
    return app


async def healthz() -> Response:
    """The process answers; says nothing about the servers."""
    return JSONResponse({"status": "ok"})


async def metrics() -> Response:
    """What Prometheus collects."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def readyz(request: Request) -> Response:
    """200 when registrations are accepted, else 503."""
    state = request.app.state
    ready, document = await anyio.to_thread.run_sync(
        lambda: _readiness(state.database, state.queues), limiter=state.readiness
    )
    return JSONResponse(document, 200 if ready else 503, None if ready else {"Retry-After": "2"})


def _readiness(database: Database, queues: Queues) -> tuple[bool, dict[str, Any]]:
    document: dict[str, Any] = {"status": "ready", "database": "ok", "schema": "ok", "redis": "ok"}
    document["tzdata"] = zones.version()
    try:
        wrong = acceptance.read(database, server.check_schema)
        if wrong:
            document |= {"status": "not ready", "schema": wrong[0]}
    except Exception as error:
        away = isinstance(error, (Unavailable, UnknownCommit))
        why = "cannot be reached" if away else f"refuses work ({code(error) or type(error).__name__})"
        document |= {"status": "not ready", "database": why, "schema": "unknown"}
    try:
        document["redis"] = "; ".join(queues.check()) or "ok"
    except RedisError:
        document["redis"] = DEGRADED
    return document["status"] == "ready", document
