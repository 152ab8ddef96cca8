"""A plot of ratios as SVG: horizontal bars on a logarithmic scale, with a whisker from the lower to the upper quartile."""
import math
from xml.sax.saxutils import escape

COLOURS = ['#2b6cb0', '#63b3ed', '#4a5568', '#a0aec0']
GOAL = '#c53030'
LEFT, WIDTH, RIGHT, BAR, GAP, TOP = 400, 520, 90, 11, 9, 58


def svg(rows, title):
    """rows: [(label, {series: (lower, median, upper)}, what is to be reached or None)]"""
    series = list(dict.fromkeys(s for _, values, _ in rows for s in values))
    every = [v for _, values, goal in rows for q in (*values.values(), [goal or 1]) for v in q]
    low, high = min(.5, *every) * .9, max(4, *every) * 1.15
    x = lambda v: LEFT + WIDTH * math.log(v / low) / math.log(high / low)
    y, body = TOP, []
    for label, values, goal in rows:
        height = BAR * len(values)
        body.append(f'<text x="{LEFT - 8}" y="{y + height / 2 + 4}" text-anchor="end">{escape(label)}</text>')
        for name, (lower, median, upper) in values.items():
            a, b = sorted((x(1), x(median)))
            middle = y + BAR / 2
            body.append(f'<rect x="{a:.1f}" y="{y}" width="{max(b - a, .5):.1f}" height="{BAR - 1}" fill="{COLOURS[series.index(name) % len(COLOURS)]}"/>')
            if upper > lower: body.append(f'<path d="M{x(lower):.1f} {middle}H{x(upper):.1f}m0 -3v6M{x(lower):.1f} {middle - 3}v6" stroke="#000" fill="none"/>')
            shown = f'{median:.2f}' if median < 10 else f'{median:.0f}'
            body.append(f'<text x="{max(x(upper), x(1)) + 5:.1f}" y="{middle + 4}" class="n">{shown}</text>')
            y += BAR
        if goal: body.append(f'<path d="M{x(goal):.1f} {y - height - 3}v{height + 5}" stroke="{GOAL}" stroke-width="2"/>')
        y += GAP
    grid = []
    for v in [.25, .5, 1, 2, 3, 5, 10, 20, 50, 100, 200]:
        if not low < v < high: continue
        width = 1.5 if v == 1 else .5
        grid.append(f'<path d="M{x(v):.1f} {TOP - 6}V{y}" stroke="{"#000" if v == 1 else "#bbb"}" stroke-width="{width}"/>'
                    f'<text x="{x(v):.1f}" y="{TOP - 10}" text-anchor="middle" class="n">{v:g}×</text>')
    keys = ''.join(f'<rect x="{LEFT + 110 * i}" y="{y + 4}" width="10" height="10" fill="{COLOURS[i % len(COLOURS)]}"/>'
                   f'<text x="{LEFT + 110 * i + 15}" y="{y + 13}">{escape(name)}</text>' for i, name in enumerate(series))
    at = LEFT + 110 * len(series)
    keys += f'<path d="M{at + 5} {y + 3}v12" stroke="{GOAL}" stroke-width="2"/><text x="{at + 15}" y="{y + 13}">to be reached</text>'
    size = (LEFT + WIDTH + RIGHT, y + 24)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}">\n'
            '<style>text{font:12px sans-serif;fill:#222}.n{font-size:11px}.t{font-size:15px;font-weight:bold}</style>\n'
            f'<rect width="100%" height="100%" fill="#fff"/>\n<text x="12" y="22" class="t">{escape(title)}</text>\n'
            + '\n'.join(grid + body) + '\n' + keys + '\n</svg>\n')
