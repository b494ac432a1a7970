"""Draws docs/images/journey.svg: one sample's path through FleetLoop. Run: python scripts/picture.py"""

from __future__ import annotations

import itertools
from pathlib import Path
from xml.sax.saxutils import escape

TARGET = Path(__file__).parent.parent / "docs" / "images" / "journey.svg"
WIDTH, HEIGHT = 1180, 378
INK, SOFT, PAPER = "#1f2933", "#52606d", "#ffffff"
LANES = {
    "vehicle": ("On the vehicle", "#e3f2ec", "#2f855a"),
    "cloud": ("In the cloud, or on your laptop", "#e6effa", "#2b6cb0"),
    "release": ("Back to the fleet", "#fdf1dc", "#b7791f"),
}
BOX_W, BOX_H = 122, 62
STEPS = [
    ("vehicle", 0, 0, "Observation", "camera, replay"),
    ("vehicle", 1, 0, "Prediction", "ONNX Runtime"),
    ("vehicle", 2, 0, "Selection", "uncertain? novel?"),
    ("vehicle", 3, 0, "Spooling", "fsync, then accepted"),
    ("vehicle", 4, 0, "Upload", "Kafka, signed"),
    ("cloud", 5, 0, "Ingest", "landed or rejected"),
    ("cloud", 6, 0, "Deduplication", "exact and near"),
    ("cloud", 7, 0, "Curation", "labels in a budget"),
    ("cloud", 7, 1, "Dataset version", "DVC, one digest"),
    ("cloud", 6, 1, "Model", "trained, int8, gated"),
    ("release", 5, 1, "Release", "signed (TUF)"),
    ("release", 4, 1, "Wave", "exact size, halts"),
    ("release", 3, 1, "Trial", "in a subprocess"),
    ("release", 2, 1, "Swap", "between two frames"),
    ("release", 1, 1, "Probation", "or roll back"),
]


def centre(column: int, row: int) -> tuple[float, float]:
    """The middle of a box in pixels."""
    return 84 + column * 144.5, 82 + row * 190


def main() -> None:
    """Write the picture."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="Helvetica, Arial, sans-serif" role="img" '
        'aria-label="One sample\'s path: from an observation on a vehicle to a better model on that vehicle">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="14" fill="{PAPER}"/>',
        f'<defs><marker id="head" markerUnits="userSpaceOnUse" markerWidth="11" markerHeight="11" viewBox="0 0 9 9" refX="7" refY="4.5" orient="auto"><path d="M0,0.5 L8,4.5 L0,8.5 z" fill="{SOFT}"/></marker></defs>',
    ]
    for lane, x0, x1, y0, y1 in (
        ("vehicle", 0, 4, 0, 0),
        ("cloud", 5, 7, 0, 1),
        ("release", 1, 5, 1, 1),
    ):
        title, fill, stroke = LANES[lane]
        left, top = centre(x0, y0)
        right, _ = centre(x1, y1)
        if lane == "cloud":
            # The two lanes meet under "Ingest": the cloud lane is an L, drawn as two rectangles of one colour.
            parts.append(
                f'<rect x="{left - 68}" y="{top - 62}" width="{right - left + 136}" height="112" rx="12" fill="{fill}"/>'
            )
            l2, t2 = centre(6, 1)
            parts.append(
                f'<rect x="{l2 - 68}" y="{t2 - 150}" width="{right - l2 + 136}" height="200" rx="12" fill="{fill}"/>'
            )
        else:
            parts.append(
                f'<rect x="{left - 68}" y="{top - 62}" width="{right - left + 136}" height="112" rx="12" fill="{fill}"/>'
            )
        parts.append(
            f'<text x="{left - 56 + (100 if lane == "release" else 0)}" y="{top - 42}" font-size="14" font-weight="bold" fill="{stroke}">{escape(title)}</text>'
        )
    for (_, ca, ra, *_), (_, cb, rb, *_) in itertools.pairwise(STEPS):
        xa, ya = centre(ca, ra)
        xb, yb = centre(cb, rb)
        if ra == rb:
            step = 1 if cb > ca else -1
            line = (xa + step * BOX_W / 2, ya, xb - step * (BOX_W / 2 + 2), yb)
        else:
            line = (xa, ya + BOX_H / 2, xb, yb - BOX_H / 2 - 2)
        parts.append(
            '<line x1="{:.0f}" y1="{:.0f}" x2="{:.0f}" y2="{:.0f}"'.format(*line)
            + f' stroke="{SOFT}" stroke-width="2" marker-end="url(#head)"/>'
        )
    xa, ya = centre(1, 1)
    xb, yb = centre(1, 0)
    parts.append(
        f'<line x1="{xa:.0f}" y1="{ya - BOX_H / 2:.0f}" x2="{xb:.0f}" y2="{yb + BOX_H / 2 + 2:.0f}" stroke="{LANES["release"][2]}" '
        'stroke-width="3" marker-end="url(#head)"/>'
    )
    parts.append(
        f'<text x="{xa + 10:.0f}" y="{(ya + yb) / 2 + 2:.0f}" font-size="12.5" fill="{LANES["release"][2]}">the better model serves</text>'
    )
    for lane, column, row, name, what in STEPS:
        x, y = centre(column, row)
        stroke = LANES[lane][2]
        parts.append(
            f'<rect x="{x - BOX_W / 2:.0f}" y="{y - BOX_H / 2:.0f}" width="{BOX_W}" height="{BOX_H}" rx="9" fill="{PAPER}" stroke="{stroke}" stroke-width="1.6"/>'
        )
        parts.append(
            f'<text x="{x:.0f}" y="{y - 4:.0f}" text-anchor="middle" font-size="15" font-weight="bold" fill="{INK}">{escape(name)}</text>'
        )
        parts.append(
            f'<text x="{x:.0f}" y="{y + 15:.0f}" text-anchor="middle" font-size="11" fill="{SOFT}">{escape(what)}</text>'
        )
    note = "Only acknowledgements, back-pressure, releases and rollbacks flow backwards. Nothing is dropped without a reason and a count."
    parts.append(
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 18}" text-anchor="middle" font-size="12.5" fill="{SOFT}">{escape(note)}</text></svg>'
    )
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {TARGET.relative_to(Path.cwd()) if TARGET.is_relative_to(Path.cwd()) else TARGET}")


if __name__ == "__main__":
    main()
