"""A picture of a run: how late each second's runs began, with the faults as bands."""

import json
from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LEFT, PLOT, ROW = 1200, 60, 260, 13
TICKS_S = (0.1, 1, 10, 60)


def lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; none if there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def draw(out: Path) -> Path:
    """`out`/timeline.svg shows the run of this directory."""
    run = json.loads((out / "run.json").read_text())
    begun_us, ended_us = run["started_us"], run["ended_us"]
    moved = run.get("moved") or {"at_us": ended_us, "by_us": 0}

    def real(us: int) -> int:
        """The database's time on our clock; what it passed over is one moment of ours."""
        return us if us <= moved["at_us"] else max(moved["at_us"], us - moved["by_us"])

    late: dict[int, list[float]] = defaultdict(list)
    for row in lines(out / "tables" / "runs.jsonl"):
        if row["origin"] == "schedule" and row["first_started_at"]:
            due, begun = real(row["due_at"]), real(row["first_started_at"])
            late[(due - begun_us) // 1_000_000].append((begun - due) / 1e6)
    faults = lines(out / "faults.jsonl")

    def x(us: int) -> float:
        return LEFT + (us - begun_us) / max(1, ended_us - begun_us) * (WIDTH - LEFT - 10)

    def y(s: float) -> float:
        """The square root: what is small stays visible beside what is not."""
        return 30 + PLOT - min(1.0, (max(0.0, s) / TICKS_S[-1]) ** 0.5) * PLOT

    rows: list[float] = []  # where the last band of each row ends
    bands = []
    for fault in sorted(faults, key=lambda fault: fault["from_us"]):
        begin, end = x(fault["from_us"]), max(x(fault["until_us"]), x(fault["from_us"]) + 2)
        label = f"{fault['name']} {fault['target'].removeprefix('edge ')}"
        words = min(begin, WIDTH - 5.2 * len(label))
        row = next((n for n, edge in enumerate(rows) if edge < words), len(rows))
        rows[row : row + 1] = [max(end, words + 5.2 * len(label))]
        top = 50 + PLOT + row * ROW
        colour = "#c62" if fault["fired"] else "#999"
        bands.append(
            f'<rect x="{begin:.1f}" y="30" width="{end - begin:.1f}" height="{PLOT}" fill="{colour}" opacity="0.12"/>'
            f'<rect x="{begin:.1f}" y="{top}" width="{end - begin:.1f}" height="9" fill="{colour}" opacity="0.7"/>'
            f'<text x="{words:.1f}" y="{top + 8}">{escape(label)}</text>'
        )
    grid = [
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(s):.1f}" y2="{y(s):.1f}" stroke="#{"c00" if s == 10 else "ddd"}"/>'
        f'<text x="{LEFT - 6}" y="{y(s) + 3:.1f}" text-anchor="end">{s:g} s</text>'
        for s in TICKS_S
    ]
    grid += [
        f'<text x="{x(begun_us + s * 1_000_000):.1f}" y="{45 + PLOT}" text-anchor="middle">{s} s</text>'
        for s in range(0, (ended_us - begun_us) // 1_000_000, 30)
    ]
    dots = []
    for second, seconds in sorted(late.items()):
        seconds.sort()
        at = x(begun_us + second * 1_000_000)
        for value, colour in ((seconds[-1], "#036"), (seconds[len(seconds) // 2], "#69c")):
            dots.append(f'<circle cx="{at:.1f}" cy="{y(value):.1f}" r="1.8" fill="{colour}"/>')
    calm = x(run["calm_us"])
    height = 60 + PLOT + len(rows) * ROW
    title = (
        f"{run['scenario']}, seed {run['seed']}: lateness of first starts; the latest (dark) and median of each second"
    )
    picture = out / "timeline.svg"
    picture.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="9">\n<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="{LEFT}" y="18" font-size="13">{escape(title)}</text>\n'
        + "\n".join([*bands, *grid, *dots])
        + f'\n<line x1="{calm:.1f}" x2="{calm:.1f}" y1="30" y2="{30 + PLOT}" stroke="#080"/>'
        f'<text x="{calm + 3:.1f}" y="40">healed</text>\n</svg>\n'
    )
    return picture
