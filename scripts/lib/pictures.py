"""Draws the pictures of scripts/screenshots as SVG.

pictures.py terminal < OUTPUT_OF_TMUX                  what 'tmux capture-pane -e' has printed
pictures.py dashboard FILE PROMETHEUS SECONDS          the panels of a dashboard, with the answers of a Prometheus
"""

import html
import json
import re
import sys
import time
import urllib.parse
import urllib.request

FONT = 'font-family="DejaVu Sans Mono, Menlo, monospace"'
COLOURS = {32: "#4caf50", 33: "#ffb300", 31: "#ff5252", 36: "#4dd0e1"}
LINES = ["#4caf50", "#ffb300", "#42a5f5", "#ef5350", "#ab47bc", "#26c6da", "#ff7043", "#9ccc65"]
DARK, PANEL, TEXT, DIM = "#111217", "#181b1f", "#d8d9da", "#8e8e8e"


def svg(width, height, parts):
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {FONT}>'
    print("\n".join([head, f'<rect width="{width}" height="{height}" fill="{DARK}"/>', *parts, "</svg>"]))


def terminal(text):
    rows = text.rstrip("\n").split("\n")
    width, height = 8.4, 17
    parts = []
    colour, bold, reverse, under = TEXT, False, False, False
    for number, row in enumerate(rows):
        column = 0
        for piece in re.split(r"(\x1b\[[0-9;]*m)", row):
            if piece.startswith("\x1b["):
                for code in [int(code or 0) for code in piece[2:-1].split(";")]:
                    if code == 0:
                        colour, bold, reverse, under = TEXT, False, False, False
                    elif code == 39:
                        colour = TEXT
                    elif code == 1:
                        bold = True
                    elif code == 4:
                        under = True
                    elif code == 7:
                        reverse = True
                    elif code in COLOURS:
                        colour = COLOURS[code]
                continue
            x, y = 8 + column * width, 8 + number * height
            length = len(piece) * width
            if reverse and piece:
                parts.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{height}" fill="{TEXT}"/>')
            if under and piece:
                parts.append(f'<rect x="{x:.1f}" y="{y + 15}" width="{length:.1f}" height="1" fill="{TEXT}"/>')
            if piece.strip():
                fill = DARK if reverse else colour
                weight = ' font-weight="bold"' if bold else ""
                parts.append(
                    f'<text x="{x:.1f}" y="{y + 13}" font-size="14" fill="{fill}"{weight} textLength="{length:.1f}" '
                    f'xml:space="preserve">{html.escape(piece)}</text>'
                )
            column += len(piece)
    svg(round(80 * width + 16), len(rows) * height + 16, parts)


def query(address, expression, seconds):
    now = time.time()
    for name, value in [("$__rate_interval", "10s"), ("$job", ".*"), ("$instance", ".*")]:
        expression = expression.replace(name, value)
    words = urllib.parse.urlencode({"query": expression, "start": now - seconds, "end": now, "step": 2})
    with urllib.request.urlopen(f"{address}/api/v1/query_range?{words}") as answer:
        return json.load(answer)["data"]["result"]


def amount(value, unit):
    if unit == "s":
        return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    suffix = {"cps": " /s", "Bps": "B/s"}.get(unit, "")
    for scale, letter in [(1e9, "G"), (1e6, "M"), (1e3, "k")]:
        if abs(value) >= scale:
            return f"{value / scale:.3g}{letter}{suffix}"
    return f"{value:.3g}{suffix}"


def series(panel, address, seconds):
    found = []
    for target in panel["targets"]:
        for one in query(address, target["expr"], seconds):
            name = re.sub(r"{{(\w+)}}", lambda match: one["metric"].get(match[1], ""), target["legendFormat"])
            points = [(at, float(value)) for at, value in one["values"] if value not in ("NaN", "+Inf")]
            if points:
                found.append((name, points))
    return found


def stat(panel, box, lines, parts):
    x, y, width, height = box
    value = lines[0][1][-1][1] if lines else None
    unit = panel["fieldConfig"]["defaults"]["unit"]
    mappings = panel["fieldConfig"]["defaults"].get("mappings", [])
    shown = {"text": "no data"} if value is None else {"text": amount(value, unit)}
    for mapping in mappings:
        shown = mapping["options"].get(f"{value:.0f}" if value is not None else "", shown)
    colour = {"green": "#4caf50", "red": "#ef5350"}.get(shown.get("color"), "#4caf50")
    parts.append(
        f'<text x="{x + width / 2:.0f}" y="{y + height / 2 + 22:.0f}" font-size="26" text-anchor="middle" '
        f'fill="{colour}">{html.escape(shown["text"])}</text>'
    )


def graph(panel, box, lines, parts, span):
    x, y, width, height = box
    unit = panel["fieldConfig"]["defaults"]["unit"]
    top = max([value for _, points in lines for _, value in points] + [1e-9])
    left, right, head, foot = x + 70, x + width - 10, y + 34, y + height - 32
    for step in range(3):
        at = foot - (foot - head) * step / 2
        parts.append(f'<line x1="{left}" y1="{at:.0f}" x2="{right}" y2="{at:.0f}" stroke="#2c3235"/>')
        parts.append(
            f'<text x="{left - 6}" y="{at + 4:.0f}" font-size="10" text-anchor="end" fill="{DIM}">'
            f"{amount(top * step / 2, unit)}</text>"
        )
    legend = left
    for number, (name, points) in enumerate(lines[:8]):
        colour = LINES[number % len(LINES)]
        place = lambda at, value: (
            left + (right - left) * (at - span[0]) / (span[1] - span[0]),
            foot - (foot - head) * value / top,
        )
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        text = html.escape(name)
        if legend + len(name) * 6.2 < right:
            parts.append(f'<text x="{legend:.0f}" y="{y + height - 12}" font-size="10" fill="{colour}">{text}</text>')
        legend += len(name) * 6.2 + 14


def dashboard(path, address, seconds):
    with open(path, encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    unit_x, unit_y, gap = 50, 30, 6
    now = time.time()
    parts = []
    for panel in panels:
        place = panel["gridPos"]
        box = (place["x"] * unit_x + gap, place["y"] * unit_y + gap, place["w"] * unit_x - gap, place["h"] * unit_y - gap)
        parts.append(f'<rect x="{box[0]}" y="{box[1]}" width="{box[2]}" height="{box[3]}" rx="3" fill="{PANEL}"/>')
        title = html.escape(panel["title"])
        parts.append(f'<text x="{box[0] + 10}" y="{box[1] + 19}" font-size="12" fill="{TEXT}">{title}</text>')
        lines = series(panel, address, seconds)
        if panel["type"] == "stat":
            stat(panel, box, lines, parts)
        else:
            graph(panel, box, lines, parts, (now - seconds, now))
    height = max((panel["gridPos"]["y"] + panel["gridPos"]["h"]) * unit_y for panel in panels) + gap
    svg(24 * unit_x + gap, height, parts)


if sys.argv[1] == "terminal":
    terminal(sys.stdin.read())
else:
    dashboard(sys.argv[2], sys.argv[3], float(sys.argv[4]))
