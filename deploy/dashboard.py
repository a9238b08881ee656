"""The RQ dashboard on 127.0.0.1:$PORT, made safe to leave open: read only, JSON only, behind a password.

The user is `clockjack`, the password CLOCKJACK_DASHBOARD_PASSWORD.
"""

import base64
import os
import re
import secrets
import sys
from collections.abc import Callable
from typing import Any

import uvicorn
from a2wsgi import WSGIMiddleware
from flask import Flask, Response, request
from flask.templating import DispatchingJinjaLoader
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer
from rq_dashboard.web import blueprint, config, setup_rq_connection

import consumers.inert  # noqa: F401  whoever can write to Redis could else run code here

USER = "clockjack"
CHANGES_STATE = {"rq_dashboard.requeue_all"}  # answers GET, and must not
HEADERS = {
    # the dashboard's own scripts are inline and compile templates; nothing may be loaded from or sent to elsewhere
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data:; "
    "frame-ancestors 'none'; form-action 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
NO_BUTTONS = (
    "<style>#compact-btn,#requeue-all-btn,#requeue-job-btn,[data-role=requeue-job-btn]{display:none!important}</style>"
)


class SafeTemplates(DispatchingJinjaLoader):
    """The dashboard's templates with every value that the browser fills in escaped, and without buttons that change."""

    def get_source(self, environment: Any, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        source, filename, up_to_date = super().get_source(environment, template)
        source = re.sub(r"<%=(?!\s*\$\('<div/>'\)\.text)", "<%-", source)  # Underscore: <%= is raw, <%- is escaped
        return source.replace("</head>", f"{NO_BUTTONS}</head>"), filename, up_to_date


def application(redis_url: str, password: str) -> Flask:
    """The dashboard as a WSGI application: 401 without the password, 405 for whatever would change something."""
    app = Flask("dashboard", static_folder=None)
    app.config.update(RQ_DASHBOARD_REDIS_URL=redis_url, RQ_DASHBOARD_DISABLE_DELETE=True)
    config.serializer = JSONSerializer
    expected = base64.b64encode(f"{USER}:{password}".encode())

    @app.before_request
    def guard() -> Response | None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic" or not secrets.compare_digest(given.strip().encode(), expected):
            return Response("This page needs a password.\n", 401, {"WWW-Authenticate": 'Basic realm="Clockjack"'})
        if request.method not in ("GET", "HEAD") or request.endpoint in CHANGES_STATE:
            return Response("This dashboard only shows. Change things with `clockjack`.\n", 405, {"Allow": "GET, HEAD"})
        return None

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response

    @app.errorhandler(NoSuchJobError)
    def unknown(error: NoSuchJobError) -> Response:
        return Response("No such job: it is finished and forgotten, or never was.\n", 404)

    @app.errorhandler(ValueError)
    def refuse(error: ValueError) -> Response:
        return Response("Refused: this job holds something other than JSON.\n", 422)

    app.register_blueprint(blueprint)
    app.add_url_rule("/static/<path:filename>", "static", lambda filename: Response(status=404))  # its favicon link
    app.jinja_env.loader = SafeTemplates(app)
    setup_rq_connection(app)
    return app


def main() -> None:
    settings: dict[str, Any] = {}
    for name in ("CLOCKJACK_REDIS_URL", "CLOCKJACK_DASHBOARD_PASSWORD", "PORT"):
        if not (value := os.environ.get(name)):
            sys.exit(f"dashboard: {name} is not set; `make up` sets it")
        settings[name] = value
    app = application(settings["CLOCKJACK_REDIS_URL"], settings["CLOCKJACK_DASHBOARD_PASSWORD"])
    server = WSGIMiddleware(app)  # type: ignore[arg-type]  # Flask and a2wsgi spell the same signature differently
    uvicorn.run(server, host="127.0.0.1", port=int(settings["PORT"]), log_level="warning")


if __name__ == "__main__":
    main()
