"""Bars as SVG, written by hand: one file a plot, legible on light and on dark pages."""

from collections.abc import Sequence
from html import escape

WIDTH, LABEL, VALUE, ROW, TOP = 720, 190, 90, 26, 44
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#333}.t{font-weight:600;font-size:15px}.b{fill:#8aa4c8}.o{fill:#d9772b}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}"
)


def bars(title: str, values: Sequence[tuple[str, float]], unit: str, ours: str = "clockjack") -> str:
    """Horizontal bars from zero, in this order, with their values; those whose label begins with `ours` stand out."""
    room, most = WIDTH - LABEL - VALUE, max((value for _, value in values), default=0) or 1
    height = TOP + ROW * len(values) + 10
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text class="t" x="8" y="22">{escape(title)}</text>',
    ]
    for i, (label, value) in enumerate(values):
        y, wide = TOP + i * ROW, max(1.0, room * value / most)
        kind = "o" if label.startswith(ours) else "b"
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{wide:.1f}" height="{ROW - 8}" rx="2"/>',
            f'<text x="{LABEL + wide + 6:.1f}" y="{y + 14}">{value:,.0f} {escape(unit)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
