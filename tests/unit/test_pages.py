"""/docs and /problems/…: whole, without scripts, without anything from elsewhere, and usable by all."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from clockjack.settings import Settings
from producer import explained, pages
from producer.app import create_app
from producer.problems import CODES

PRODUCER = Path(__file__).parents[2] / "producer"
VOID = {"meta", "input", "br"}
HTML = {"Accept": "text/html,application/xhtml+xml"}


@pytest.fixture(scope="module")
def client() -> TestClient:
    nowhere = Settings(database_url="mysql+pymysql://nobody@localhost/none", redis_url="redis://localhost")
    return TestClient(create_app(nowhere))  # not started: pages need no server


class Read(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def every_page(client: TestClient) -> Iterator[tuple[str, str]]:
    for path in ("/docs", *(f"/problems/{kind}" for kind in CODES)):
        answer = client.get(path, headers=HTML)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        yield path, answer.text


def test_every_page_stands_alone_and_can_be_read_by_all(client: TestClient) -> None:
    paths = {}
    for path, text in every_page(client):
        page = paths[path] = Read(text)
        assert page.all("html") == [{"lang": "en"}], path
        assert page.all("main")[0]["id"] == "main", path
        assert not [tag for tag, _ in page.tags if tag in ("script", "img", "link", "iframe")], path
        assert "url(" not in text, path
        assert len(page.all("h1")) == 1, path
        levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
        assert all(after - before <= 1 for before, after in pairwise(levels)), path
        assert all(one["scope"] == "col" for one in page.all("th")), path
        assert not [one for one in page.all("pre") if not (one["tabindex"] == "0" and one["aria-label"])], path
        labels = [tag for tag, _ in page.tags].count("label")
        assert labels == len([one for one in page.all("input") + page.all("select") if one.get("type") != "hidden"]), (
            path
        )
        ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
        assert max(ids.values()) == 1, path
    for path, page in paths.items():
        for link in page.all("a"):
            target, _, place = link["href"].partition("#")
            found = paths.get(target or path)
            assert found or target == "/openapi.json", f"{path} links to {link['href']}"
            if place:
                assert [1 for _, attributes in found.tags if attributes.get("id") == place], link["href"]


def test_every_operation_is_on_the_page(client: TestClient) -> None:
    text = client.get("/docs").text
    described = client.get("/openapi.json").json()
    for path, item in described["paths"].items():
        for method, operation in item.items():
            assert f'<span class="method">{method.upper()}</span> <code>{path}</code>' in text
            for parameter in operation.get("parameters", ()):
                assert f"<code>{parameter['name']}</code>" in text
    for name, schema in described["components"]["schemas"].items():
        assert f'id="schema-{name}"' in text
        for field in schema["properties"]:
            assert f"<code>{field}</code>" in text
    assert "curl -X POST &quot;$CLOCKJACK_URL/v1/tasks&quot;" in text


def test_every_problem_that_the_code_answers_has_a_page(client: TestClient) -> None:
    used = set()
    for module in PRODUCER.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                used |= {one.value for one in node.args[:1] if isinstance(one, ast.Constant)}
    assert len(used) > 10
    assert used <= set(CODES) == set(explained.WHY)
    for kind in CODES:
        found = client.get(f"/problems/{kind}").json()
        assert found.keys() == {"code", "status", "title", "what_was_wrong", "what_to_do"}
        text = client.get(f"/problems/{kind}", headers=HTML).text
        assert all(pages.prose(found[name]) in text for name in ("title", "what_was_wrong", "what_to_do"))
    assert client.get("/problems/none").json()["code"] == "not-found"


def _luminance(color: str) -> float:
    color = "#" + "".join(c * 2 for c in color[1:]) if len(color) == 4 else color
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_colour_of_text_can_be_told_from_its_ground() -> None:
    schemes = re.findall(r":root \{([^}]*)\}", pages.STYLE)
    assert len(schemes) == 2
    for scheme in schemes:
        colors = dict(re.findall(r"--(\w+): (#[0-9a-f]+)", scheme))
        for ground in ("ground", "box"):
            for ink in ("ink", "soft", "link", "good", "bad"):
                light, dark = sorted((_luminance(colors[ink]), _luminance(colors[ground])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{ink} on {ground}"
