"""Write the dataset card: an HTML and a Markdown page with contents, removals by reason, plots and sample pictures.

All numbers come from the manifest, all pictures from the shards. Equal datasets give equal cards. The page loads
nothing from the network.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, StrictUndefined, select_autoescape
from markupsafe import Markup

from foundation.files import write_atomic
from foundation.web_page import CONTENT_POLICY_TAG, page_text
from pipelines.curate.labels import AnyTask
from pipelines.dataset.pictures import draw_contact_sheets
from pipelines.dataset.plots import draw_plots
from schemas.reasons import RemovalReason

_MARKDOWN = re.compile(r"[\\<>&|`\[\]!]")
REASONS_IN_WORDS = {
    RemovalReason.NOT_LANDED: "not a landed sample: a resend, a dead letter or lost offsets",
    RemovalReason.UNREADABLE: "the image cannot be decoded",
    RemovalReason.PAYLOAD_UNAVAILABLE: "the blob store does not have the payload, or has other bytes",
    RemovalReason.TOO_SMALL: "smaller than the smallest allowed side",
    RemovalReason.TOO_DARK: "darker than the lowest allowed luma",
    RemovalReason.TOO_BRIGHT: "brighter than the highest allowed luma",
    RemovalReason.BLURRED: "less sharp than allowed",
    RemovalReason.EXACT_DUPLICATE: "the same bytes as a frame that is kept",
    RemovalReason.NEAR_DUPLICATE: "a near-duplicate of a frame that is labelled or has a smaller hash",
    RemovalReason.NEAR_DUPLICATE_OF_TEST: "a near-duplicate of a test frame, so it may not be trained on",
}


def write_card(folder: Path, manifest: dict[str, Any], kept: pl.DataFrame, task: AnyTask) -> None:
    """Write card.md, card.html and pictures/ into the dataset's folder."""
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    draw_plots(pictures, manifest, kept)
    sheets = draw_contact_sheets(pictures, folder, kept, manifest["classes"], task)
    view = {
        "m": manifest,
        "sheets": sheets,
        "policy": Markup(CONTENT_POLICY_TAG),  # noqa: S704 - a constant
        "rows": _count_rows(manifest["counts"]),
        "test_conditions": _conditions(manifest),
    }
    for name in ("card.md", "card.html"):
        text = _environment(name).get_template(f"{name}.j2").render(view)
        write_atomic(folder / name, text.encode())


def _count_rows(counts: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return (outcome, count, explanation) for each outcome of a row; the counts add up to the rows read."""
    rows = [("kept", int(counts["kept"]), "labelled and valid; in the shards")]
    rows.append(("unlabelled", int(counts["unlabelled"]), "valid and unique, but not labelled yet"))
    rows.append(("quarantined", int(counts["quarantined"]), "breaks a rule; in quarantine.parquet"))
    rows += [
        (f"removed: {reason}", int(counts["removed"][reason]), REASONS_IN_WORDS[RemovalReason(reason)])
        for reason in sorted(counts["removed"])
    ]
    return rows


def _conditions(manifest: dict[str, Any]) -> list[str]:
    return sorted(manifest["conditions"])


def _environment(name: str) -> Environment:
    from jinja2 import BaseLoader, TemplateNotFound

    class PackageFiles(BaseLoader):
        """Loads templates beside this module, from a folder or from a zip file."""

        def get_source(self, _environment: Environment, template: str) -> tuple[str, str | None, None]:
            file = resources.files("pipelines.dataset") / template
            if not file.is_file():
                raise TemplateNotFound(template)
            return file.read_text(encoding="utf-8"), None, None

    environment = Environment(
        loader=PackageFiles(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(enabled_extensions=("html.j2",), default=False),
        finalize=_text if name.endswith(".html") else _markdown_text,
    )
    environment.filters["grouped"] = lambda number: f"{number:,}"
    environment.filters["size"] = _size
    environment.filters["share"] = lambda part, whole: f"{100 * part / whole:.1f} %" if whole else "0 %"
    return environment


def _text(value: object) -> object:
    """Return a value for the HTML page, which is escaped afterwards: nothing in it is invisible or reorders the rest."""
    return page_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _markdown_text(value: object) -> object:
    """Return a value for the Markdown page: neither HTML nor a link, a picture, code or a cell of a table."""
    return _MARKDOWN.sub(r"\\\g<0>", page_text(value).replace("\n", " ")) if isinstance(value, str) else value


def _size(size_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} B"
