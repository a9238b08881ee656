"""Where a page of a list ends: one number, opaque to clients so that the order behind it may change."""

from base64 import urlsafe_b64decode, urlsafe_b64encode

from producer.problems import Problem


def write(position: int) -> str:
    """The cursor of this position."""
    return urlsafe_b64encode(f"1.{position}".encode()).decode().rstrip("=")


def read(cursor: str | None) -> int | None:
    """The position of this cursor; the problem `invalid-parameter` when it is none of ours."""
    if cursor is None:
        return None
    try:
        version, _, number = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode("ascii").partition(".")
        if version == "1" and number.isdecimal() and len(number) < 20:
            return int(number)
    except ValueError:
        pass
    errors = [{"parameter": "cursor", "detail": "use the next_cursor of an answer, unchanged"}]
    raise Problem("invalid-parameter", f"cursor: {errors[0]['detail']}", errors=errors)
