"""Every route answers what its description says, whatever is sent that the description allows or nearly allows."""

from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from clockjack.ledger import keys
from clockjack.ledger.database import Database
from tests.integration.life import owner
from tests.integration.serving import Producer
from tests.integration.test_namespaces import ours

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    ignored_auth,
]
EXAMPLES = 15
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


@pytest.mark.slow
@pytest.mark.timeout(170)
def test_every_route_answers_as_described(http: TestClient, database: Database, serving: Producer) -> None:
    key = owner(database).transaction(lambda c: keys.create(c, "default", "operator", "admin"))  # who may do everything
    headers = {"Authorization": f"Bearer {key}"}
    values = ours(http, headers)
    schema = schemathesis.openapi.from_url(f"{serving.url}/openapi.json")
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            tried += 1
            _try(operation, mode, headers, values)
    assert tried >= 50


def _try(operation: Any, mode: GenerationMode, headers: dict[str, str], values: dict[str, str]) -> None:
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=QUIET
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:  # an id of ours, so that more than 404 is seen
            case.path_parameters = {
                name: values.get(name, value) for name, value in (case.path_parameters or {}).items()
            }
        case.call_and_validate(headers=headers, checks=CHECKS)

    answers()
