"""docs/performance.md: what stands between two markers is replaced by what was measured; plots and JSON lie beside it.

Every block names its command. A scenario that was not run keeps what its block said before.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from tests.bench.plots import bars
from tests.prove.stage import ROOT

PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "performance"
LATENESS = ("p50", "p99", "p999", "max")


def publish(results: Mapping[str, Any]) -> None:
    """The page, the plots and results.json show these results; `results` holds each scenario's figures by its name."""
    PLOTS.mkdir(exist_ok=True)
    kept = PLOTS / "results.json"
    known = json.loads(kept.read_text()) if kept.exists() else {}
    kept.write_text(json.dumps(known | dict(results), indent=1) + "\n")
    page = PAGE.read_text()
    for name, figures in results.items():
        page = between(page, name, BLOCKS[name](figures))
    PAGE.write_text(page)


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between the markers of that name; KeyError when it has none."""
    pattern = re.compile(rf"(<!-- bench:{name} -->\n).*?(<!-- /bench:{name} -->)", re.DOTALL)
    if not pattern.search(page):
        raise KeyError(f"{PAGE} has no place for {name}")
    return pattern.sub(lambda found: f"{found[1]}\n{text}\n\n{found[2]}", page)


def grid(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown; figures with separators."""

    def cell(value: Any) -> str:
        return (
            f"{value:,.1f}".removesuffix(".0")
            if isinstance(value, float)
            else f"{value:,}"
            if isinstance(value, int)
            else str(value)
        )

    lines = [head, ["---"] * len(head), *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _picture(name: str, title: str, values: list[tuple[str, float]], unit: str, ours: str = "clockjack") -> str:
    (PLOTS / f"{name}.svg").write_text(bars(title, values, unit, ours))
    return f"![{title}](performance/{name}.svg)"


def _late(figures: Mapping[str, float]) -> list[Any]:
    return [figures[key] for key in LATENESS]


def _by_kind(figures: Mapping[str, float]) -> list[Any]:
    """Dispatchers, consumers, database and Redis, summed."""
    kinds = ("dispatcher", "consumer", "database", "redis")
    return [round(sum(v for name, v in figures.items() if name.startswith(kind)), 1) for kind in kinds]


def _peers(figures: Mapping[str, Any]) -> str:
    picture = _picture("peers", "Runs started a second, all due at one instant", list(figures["medians"].items()), "/s")
    return f"{figures['table']}\n\n{picture}"


def _bursts(figures: Mapping[str, Any]) -> str:
    head = ["due at once", "dispatchers", "consumers", "rate/s", "p50 ms", "p99", "p99.9", "max"]
    head += ["CPU µs a run: dispatchers", "consumers", "database", "Redis", "µs after due"]
    rows = [
        [
            *(b[key] for key in ("number", "dispatchers", "consumers")),
            *(round(b["rate_per_s"]), *_late(b["lateness_ms"]), *_by_kind(b["cpu_us_per_run"])),
            round(sum(b["cpu_us_per_run_after_due"].values()), 1),
        ]
        for b in figures["bursts"]
    ]
    return grid(head, rows)


def _steady(figures: Mapping[str, Any]) -> str:
    head = ["a second", "seconds", "p50 ms", "p99", "p99.9", "max", "backlog half-way", "at the end"]
    head += ["CPU %: dispatchers", "consumers", "database", "Redis"]
    rows = [
        [
            *(s["rate"], s["seconds"], *_late(s["lateness_ms"])),
            *(s["backlog_half_way"], s["backlog_at_the_end"], *_by_kind(s["cpu_percent"])),
        ]
        for s in figures["rates"]
    ]
    shown = [(f"{s['rate']:,}/s", s["lateness_ms"]["p99"]) for s in figures["rates"]]
    return f"{grid(head, rows)}\n\n{_picture('steady', 'p99 lateness at a steady rate', shown, 'ms', '')}"


def _entry(figures: Mapping[str, Any]) -> str:
    head = ["handler takes ms", "batch", "runs", "p50 ms", "p99", "p99.9", "max"]
    rows = []
    for one in figures["handlers"]:
        rows.append([one["handler_ms"], "all", figures["number"], *_late(one["all_ms"])])
        rows += [[one["handler_ms"], size, f["runs"], *_late(f)] for size, f in one["by_batch_ms"].items()]
    return grid(head, rows)


def _herd(f: Mapping[str, Any]) -> str:
    head = ["who", "p50 ms", "p99", "p99.9", "max"]
    rows = [[f"{f['rate']:,}/s of another namespace", *_late(f["calm_ms"])]]
    return grid(head, [*rows, [f"{f['number']:,} at :00", *_late(f["herd_ms"])]])


def _idle(f: Mapping[str, Any]) -> str:
    rows = [[name, f["cpu_percent"][name], f["rss_mb"][name]] for name in f["cpu_percent"]]
    return grid([f"{f['future_tasks']:,} future tasks, nothing due", "CPU %", "RSS MB"], rows)


def _webhooks(f: Mapping[str, Any]) -> str:
    head = ["asked for a second", "went through", "answers take ms", "consumers", "handlers at once, each"]
    row = [f["rate"], f["sustained_per_s"], f["delay_ms"], f["consumers"], f["concurrency"]]
    head += ["p50 ms", "p99", "p99.9", "max", "CPU %: dispatchers", "consumers", "database", "Redis"]
    return grid(head, [[*row, *_late(f["lateness_ms"]), *_by_kind(f["cpu_percent"])]])


def _recurring(figures: Mapping[str, Any]) -> str:
    head = ["kind", "a second", "tasks", "seconds", "p50 ms", "p99", "p99.9", "max"]
    head += ["CPU %: dispatchers", "consumers", "database", "Redis"]
    rows = [
        [f["kind"], f["rate"], f["tasks"], f["seconds"], *_late(f["lateness_ms"]), *_by_kind(f["cpu_percent"])]
        for f in figures["kinds"]
    ]
    return grid(head, rows)


def _growth(f: Mapping[str, Any]) -> str:
    full = f"{f['future_tasks']:,} future tasks, {f['past_runs']:,} past runs"
    keys = ("p50_ms", "p99_ms", "max_ms", "claim_us_per_run")
    head = ["tables", "p50 ms", "p99", "max", "claim µs a run"]
    return grid(
        head,
        [[name, *(f[of][k] for k in keys)] for name, of in (("empty", "empty"), (full, "full"), ("ratio", "ratio"))],
    )


def _limits(f: Mapping[str, Any]) -> str:
    rows = [
        [name, s["wall_us"], s["own_us"], s["server_us"], round(1e6 / max(0.1, s["wall_us"]))]
        for name, s in f["steps"].items()
    ]
    rows.append(
        ["all, one after the other", sum(s["wall_us"] for s in f["steps"].values()), "", "", f["one_process_per_s"]]
    )
    shown = [(name, s["wall_us"]) for name, s in f["steps"].items()]
    table = grid(["step, alone", "µs a run", "of it the process's CPU", "server's CPU", "a second"], rows)
    return f"{table}\n\n{_picture('limits', 'µs a run of each step alone', shown, 'µs', '')}"


def _waiting(f: Mapping[str, Any]) -> str:
    head = ["in flight", "handler", "a second", "at most", "CPU µs a run", "memory MB"]
    keys = ("in_flight", "kind", "rate_per_s", "of_rate", "cpu_us_per_run", "memory_mb")
    return f"{grid(head, [[k[key] for key in keys] for k in f['kinds']])}\n\nLoad average {f['load_average']:.1f}."


def _isolated(f: Mapping[str, Any]) -> str:
    head = ["handler in", "runs a second", "ratio", "call to entry p50 ms", "p99"]
    rows = [
        [k["kind"], round(k["rate_per_s"]), k["ratio"], f"{k['entry_p50_ms']:.3f}", f"{k['entry_p99_ms']:.3f}"]
        for k in f["kinds"]
    ]
    return f"{grid(head, rows)}\n\nLoad average {f['load_average']:.1f}."


BLOCKS = {
    "peers": _peers,
    "burst": _bursts,
    "steady": _steady,
    "entry": _entry,
    "herd": _herd,
    "idle": _idle,
    "webhooks": _webhooks,
    "waiting": _waiting,
    "isolated": _isolated,
    "recurring": _recurring,
    "growth": _growth,
    "scale": _bursts,
    "limits": _limits,
}
