"""params.yaml that nests without end is refused by name, before anything recurses over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from foundation.errors import MisconfiguredError
from workspace.params_file import MAX_NESTING, load_classes, read_params


@pytest.mark.parametrize("text", ["[" * 50_000, "{a: " * 50_000, "classes:\n" + " - " * 30 + "x\n"])
def test_nesting_beyond_the_bound_is_refused_with_the_bound_and_the_place(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(MisconfiguredError, match=rf"nested deeper than {MAX_NESTING} at .*line"):
        read_params(path)


def test_nesting_within_the_bound_is_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "classes: [red, green]\nother: " + "[" * (MAX_NESTING - 1) + "]" * (MAX_NESTING - 1) + "\n"
    )
    assert load_classes(path) == ("red", "green")
