"""docs/openapi.json is what the application serves: a change of the API is declared by renewing it."""

import json
from pathlib import Path

import pytest

from producer import openapi

SNAPSHOT = Path(__file__).parents[2] / "docs" / "openapi.json"
METHODS = ("get", "post", "put", "patch", "delete")


def test_the_description_is_the_one_that_is_kept() -> None:
    if SNAPSHOT.read_text() != openapi.text():
        pytest.fail("the API has changed: python -m producer.openapi > docs/openapi.json, and look at the difference")


def test_every_operation_declares_its_answers_and_problems() -> None:
    described = json.loads(openapi.text())
    assert {"/v1/tasks", "/v1/tasks/bulk", "/v1/tasks/{task_id}", "/v1/runs"} <= set(described["paths"])
    assert {"/v1/schedules/preview", "/v1/forecast", "/v1/slo"} <= set(described["paths"])
    for path, item in described["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            answers = operation["responses"]
            assert {"401", "500", "503"} <= set(answers), path
            assert ("404" in answers) == ("{" in path), path
            for status, answer in answers.items():
                if status == "204":
                    assert "content" not in answer, (method, path)
                elif status.startswith("2"):
                    assert answer["content"]["application/json"]["schema"], (method, path)
                else:
                    assert answer == {"$ref": f"#/components/responses/{status}"}
                    assert status in described["components"]["responses"]


def test_every_reference_names_something() -> None:
    described = json.loads(openapi.text())

    def walk(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(ref := value.get("$ref"), str):
                target = described
                for part in ref.removeprefix("#/").split("/"):
                    target = target[part]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(described)
