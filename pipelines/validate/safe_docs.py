"""Data Docs in which values of the data are text: escaped before Great Expectations renders them, and held by a policy.

Its renderer puts values (of annotators, of vehicles) into the pages as they are, and its pages load scripts, styles and a
logo from servers of others. Here every text of a result is escaped first; then scripts and foreign addresses are removed,
and a content security policy forbids both.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from foundation.files import write_atomic
from foundation.web_page import CONTENT_POLICY_TAG

_SCRIPT = re.compile(r"<script\b.*?(?:</script\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_FOREIGN = re.compile(r"<(?:link|img|form|iframe)\b[^>]*?[\"'](?:https?:)?//[^>]*>", re.IGNORECASE)
_HEAD = re.compile(r"<head[^>]*>", re.IGNORECASE)
_STYLE = (
    "<style>body{font-family:sans-serif;margin:2em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.3em;vertical-align:top;text-align:left}svg{max-width:1em}</style>"
)


def escaped(value: Any) -> Any:
    """Return a result's value with every text in it, keys too, escaped for a page."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {escaped(key): escaped(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(item) for item in value]
    return value


def build_safe_docs(context: Any, docs: Path) -> None:
    """Write the Data Docs of a context's results and suites, with the context's texts escaped; the context is spent."""
    results = context.validation_results_store
    for key in results.list_keys():
        found = results.get(key)
        for outcome in found.results:
            outcome.result = escaped(outcome.result)
            outcome.expectation_config.kwargs = _arguments(outcome.expectation_config.kwargs)
            outcome.exception_info = escaped(outcome.exception_info)
        results.update(key, found)
    for suite in context.suites.all():
        for expectation in suite.expectations:
            values = getattr(expectation, "value_set", None)
            if values:
                expectation.value_set = escaped(list(values))
        suite.save()
    context.build_data_docs()
    index = docs / "index.html"
    pages = sorted(docs.rglob("*.html"))
    links = [page.relative_to(docs).as_posix() for page in pages if page != index]
    for page in pages:
        text = safe_page(page.read_text(encoding="utf-8"), links if page == index else ())
        write_atomic(page, text.encode())


def _arguments(found: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of an expectation: names of columns are ours, values may be anybody's."""
    return {
        name: value if name in ("column", "batch_id") else escaped(value) for name, value in found.items()
    }


def safe_page(text: str, links: Sequence[str] = ()) -> str:
    """Return a page without scripts and without anything of other servers, with the content security policy.

    Args:
        links: pages to link at the end, relative; Great Expectations' own index makes them by a script.
    """
    text = _FOREIGN.sub("", _SCRIPT.sub("", text))
    head = _HEAD.search(text)
    begin = head.end() if head else 0
    if links:
        rows = "".join(f'<li><a href="{quote(link)}">{html.escape(link)}</a></li>' for link in links)
        text = text.replace("</body>", f"<ul>{rows}</ul>\n</body>")
    return f"{text[:begin]}\n{CONTENT_POLICY_TAG}\n{_STYLE}\n{text[begin:]}"
