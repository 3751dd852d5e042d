#!/usr/bin/env python3
"""Draws docs/*.svg from the figures that `cargo bench` leaves in target/figures/.

Usage: benches/draw.py [FIGURES_DIR [DOCS_DIR]]
"""

import json
import math
import pathlib
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 76, 120, 44, 52
COLORS = ["#2563a8", "#c2571a", "#5f6b76"]


def scale(value, low, high, start, end):
    return start + (math.log10(value) - math.log10(low)) / (math.log10(high) - math.log10(low)) * (end - start)


def chart(title, x_label, y_label, lines):
    """An SVG of lines, each a name and points (x, y); x is logarithmic, y starts at 0."""
    xs = sorted({x for _, points in lines for x, _ in points})
    top = max(y for _, points in lines for _, y in points) * 1.1
    step = 10 ** math.floor(math.log10(top))
    step = step if top / step >= 3 else step / 2 if top / step >= 1.5 else step / 4
    place_x = lambda x: scale(x, xs[0], xs[-1], LEFT, WIDTH - RIGHT)
    place_y = lambda y: HEIGHT - BOTTOM - y / top * (HEIGHT - BOTTOM - TOP)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}"'
        ' font-family="sans-serif" font-size="12" fill="#444">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" font-size="15" fill="#111">{title}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{x_label}</text>',
        f'<text x="{LEFT}" y="{TOP - 6}" text-anchor="start">{y_label}</text>',
    ]
    y = 0
    while y <= top:
        out.append(f'<path d="M{LEFT} {place_y(y):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        out.append(f'<text x="{LEFT - 8}" y="{place_y(y) + 4:.1f}" text-anchor="end">{y:,.0f}</text>')
        y += step
    for x in xs:
        out.append(f'<text x="{place_x(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{x:,}</text>')
    for color, (name, points) in zip(COLORS, lines):
        path = " ".join(f"{place_x(x):.1f},{place_y(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        out += [f'<circle cx="{place_x(x):.1f}" cy="{place_y(y):.1f}" r="3" fill="{color}"/>' for x, y in points]
        x, y = points[-1]
        out.append(f'<text x="{place_x(x) + 8:.1f}" y="{place_y(y) + 4:.1f}" fill="{color}">{name}</text>')
    return "\n".join(out + ["</svg>", ""])


def draw_creates(figures, docs):
    # Of several rows for as many callers, the last one has the most connections.
    creates = list({row["callers"]: row for row in figures["rows"] if row["call"] == "Create"}.values())
    if not creates:
        return
    lines = [("Icebox", [(row["callers"], row["icebox"]["rate"]) for row in creates])]
    if creates[0]["etcd"]:
        lines.append(("etcd Put", [(row["callers"], row["etcd"]["rate"]) for row in creates]))
    (docs / "creates.svg").write_text(chart("Creates, on disk before they are answered", "callers", "a second", lines))


def draw_pages(figures, docs):
    pages = figures["rows"]
    lines = [
        ("at the start", [(row["jobs"], row["first_us"]) for row in pages]),
        ("at the end", [(row["jobs"], row["last_us"]) for row in pages]),
    ]
    (docs / "pages.svg").write_text(chart("A page of 100, out of the catalog", "jobs in the catalog", "µs", lines))


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    directory = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else root / "target/figures"
    docs = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else root / "docs"
    docs.mkdir(exist_ok=True)
    for name, draw in [("rpc", draw_creates), ("pages", draw_pages)]:
        file = directory / f"{name}.json"
        if file.exists():
            draw(json.loads(file.read_text()), docs)
        else:
            print(f"{file} is missing: run `cargo bench --bench {name}`", file=sys.stderr)


main()
