"""Each workspace has secrets of its own, by which it splits and draws, and keeps them."""

from __future__ import annotations

from pathlib import Path

from pipelines.curate.params import load_params
from services.init import SALT_BYTES, make_workspace, template


def test_each_new_workspace_splits_and_draws_by_secrets_that_no_other_has_and_keeps_them(
    tmp_path: Path,
) -> None:
    found = []
    for name in ("one", "two"):
        place = make_workspace(tmp_path / name, with_keys=False)
        params = load_params(place.params_path)
        assert params.split.per_vehicle
        found += [params.split.salt, params.label.salt]
        make_workspace(place.root, with_keys=False)
        assert load_params(place.params_path) == params
    assert len(set(found)) == 4
    assert {len(salt) for salt in found} == {2 * SALT_BYTES}


def test_a_workspace_with_anothers_secret_has_its_splits_and_one_with_none_those_of_earlier_releases(
    tmp_path: Path,
) -> None:
    shared = "anothers"
    same = [make_workspace(tmp_path / name, with_keys=False, secret=shared) for name in ("one", "two")]
    assert load_params(same[0].params_path) == load_params(same[1].params_path)
    public = make_workspace(tmp_path / "public", with_keys=False, secret="")
    assert public.params_path.read_text() == template("params.yaml")
    params = load_params(public.params_path)
    assert (params.split.salt, params.split.per_vehicle, params.label.salt) == ("", False, "")
