"""docs/openapi.json is what the application serves: a change of the API is declared by renewing it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from clockjack import answers
from clockjack.documents import TASK_FIELDS
from clockjack.ledger.reports import RUN_COLUMNS
from producer import openapi, shapes
from producer.problems import CODES

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"
METHODS = ("get", "post", "put", "patch", "delete")


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return json.loads(openapi.text())


def operations(described: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in described["paths"].items():
        for method, operation in item.items():
            yield method, path, operation


def named(described: dict[str, Any], value: dict[str, Any]) -> Any:
    found: Any = described
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def inside(value: object) -> Iterator[dict[str, Any]]:
    """All objects in the description."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(inner)


def test_the_description_is_the_one_that_is_kept() -> None:
    if SNAPSHOT.read_text() != openapi.text():
        pytest.fail("the API has changed: python -m producer.openapi > docs/openapi.json, and look at the difference")


def test_every_operation_declares_its_answers_and_problems(described: dict[str, Any]) -> None:
    assert {"/v1/tasks", "/v1/tasks/bulk", "/v1/tasks/{task_id}", "/v1/runs"} <= set(described["paths"])
    assert {"/v1/schedules/preview", "/v1/forecast", "/v1/slo"} <= set(described["paths"])
    for method, path, operation in operations(described):
        what = (method, path)
        assert method in METHODS
        assert not [name for name in operation if name.startswith("x-")], what
        found = operation["responses"]
        assert {"401", "500", "503"} <= set(found), what
        assert ("404" in found) == ("{" in path), what
        for status, answer in found.items():
            if status in ("204", "304"):
                assert "content" not in answer, what
            elif status < "3":
                schema = named(described, answer["content"]["application/json"]["schema"])
                assert schema["additionalProperties"] is False, f"{what}: say what it answers: describe({{…}})"
                assert schema["required"], what
                assert "ETag" in answer.get("headers", {}) or "version" not in schema["properties"], what
            else:
                assert answer == {"$ref": f"#/components/responses/{status}"}
                assert status in described["components"]["responses"]
        if "requestBody" in operation:
            sent = named(described, operation["requestBody"]["content"]["application/json"]["schema"])
            assert sent["additionalProperties"] is False, what
            assert sent["examples"], f"{what}: give the body an example"


def test_every_reference_names_something_and_every_schema_is_used(described: dict[str, Any]) -> None:
    refs = {one["$ref"] for one in inside(described) if isinstance(one.get("$ref"), str)}
    for ref in refs:
        assert named(described, {"$ref": ref})
    for kind in ("schemas", "headers"):
        for name in described["components"][kind]:
            assert f"#/components/{kind}/{name}" in refs


def test_the_answers_have_the_columns() -> None:
    assert list(get_type_hints(answers.Task)) == [*TASK_FIELDS, "warnings"]
    columns = {name.strip().removeprefix("r.") for name in RUN_COLUMNS.split(",")}
    assert set(get_type_hints(answers.TaskRun)) == columns | {"run_key", "lateness_ms", "attempts"}


def test_two_schemas_of_one_name_are_refused() -> None:
    components: dict[str, Any] = {}
    shapes.shared({"title": "A", "properties": {"x": {"type": "string"}}}, components)
    with pytest.raises(ValueError, match="two schemas have the name A"):
        shapes.shared({"title": "A", "properties": {}}, components)
    with pytest.raises(TypeError):
        shapes.schema(bytes)


def test_every_problem_is_described(described: dict[str, Any]) -> None:
    problem = described["components"]["schemas"]["Problem"]["properties"]
    assert problem["code"]["enum"] == sorted(CODES)
    assert problem["type"]["enum"] == [f"/problems/{kind}" for kind in sorted(CODES)]
    for status, answer in described["components"]["responses"].items():
        assert set(answer["content"]) == {"application/problem+json"}
        assert ("Retry-After" in answer.get("headers", {})) == (status in ("429", "503"))
