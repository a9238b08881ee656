"""What a receiver's answer means: success rules and Retry-After."""

import pytest

from clockjack import registration
from clockjack.endpoints import Edit, NewEndpoint, succeeds
from consumers.delivery import retry_after_s

AT_US = 1_445_412_480_000_000  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("rule", "taken", "not_taken"),
    [
        ("2xx", (200, 204, 299), (199, 300, 302, 409, 500)),
        ("200", (200,), (201, 204)),
        ("200-204,409", (200, 202, 204, 409), (205, 408, 410)),
        ("2xx,4xx", (200, 404, 410), (302, 500)),
    ],
)
def test_success_rules(rule: str, taken: tuple[int, ...], not_taken: tuple[int, ...]) -> None:
    assert all(succeeds(rule, status) for status in taken)
    assert not any(succeeds(rule, status) for status in not_taken)


@pytest.mark.parametrize("rule", ["", "ok", "1xx", "600", "2xx,", "200-", "2x", "20", "200,,204", 200, "2xx" * 100])
def test_rules_that_are_none(rule: object) -> None:
    with pytest.raises(registration.Refused, match="success"):
        registration.read(Edit, {"success": rule})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 1),
        ("99999999999999999999", 3600),
        ("Wed, 21 Oct 2015 07:29:30 GMT", 90),
        ("Wed, 21 Oct 2015 07:00:00 GMT", 1),
        ("Wed, 21 Oct 2035 07:00:00 GMT", 3600),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert retry_after_s(text, AT_US) == seconds


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"name": "a b", "url": "https://example.com/"}, "name"),
        ({"name": "", "url": "https://example.com/"}, "name"),
        ({"name": "x" * 101, "url": "https://example.com/"}, "name"),
        ({"name": "a"}, "url"),
        ({"name": "a", "url": "http://10.0.0.1/"}, "url"),
        ({"name": "a", "url": "https://u@example.com/"}, "url"),
        ({"name": "a", "url": "https://example.com/", "headers": {"A": "x\r\nB: y"}}, "headers"),
        ({"name": "a", "url": "https://example.com/", "headers": {"Webhook-Id": "x"}}, "headers"),
        ({"name": "a", "url": "https://example.com/", "secret": "whsec_AAAA"}, "secret"),
        ({"name": "a", "url": "https://example.com/", "secret": "A" * 44}, "secret"),
        ({"name": "a", "url": "https://example.com/", "state": "disabled"}, "state"),
    ],
)
def test_endpoints_that_are_refused(document: dict[str, object], field: str) -> None:
    with pytest.raises(registration.Refused) as error:
        registration.read(NewEndpoint, document)
    assert [name for name, _ in error.value.errors] == [field]
