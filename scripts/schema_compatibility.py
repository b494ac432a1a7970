"""Check that schema changes break no reader, before they are merged.

    python -m scripts.schema_compatibility            compare schemas/avro with the frozen copies; exit status 0 if all is well
    python -m scripts.schema_compatibility --freeze   also freeze versions that have no frozen copy yet

Two rules hold. A frozen version never changes, because vehicles that write it are on the road; in a git checkout the
frozen copies are also compared with their first commit. And every version reads every other: new readers read old records
(backward), and old readers read new records (forward), by "Schema Resolution" of the Avro 1.12 specification.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from schemas.registry import file_name_parts

FOLDER: Final = Path(__file__).resolve().parents[1] / "schemas" / "avro"

_PROMOTES: Final = {
    "int": {"long", "float", "double"},
    "long": {"float", "double"},
    "float": {"double"},
    "string": {"bytes"},
    "bytes": {"string"},
}
Names = dict[str, Any]


def check(old: Any, new: Any) -> list[str]:
    """Return the incompatibilities between two versions as messages; empty if each reads the other.

    Args:
        old, new: schemas as parsed JSON.
    """
    backward = [f"backward: {problem}" for problem in can_read(writer=old, reader=new)]
    forward = [f"forward: {problem}" for problem in can_read(writer=new, reader=old)]
    return backward + forward


def can_read(*, writer: Any, reader: Any) -> list[str]:
    """Return why `reader` cannot read some record of `writer`; empty if it reads all."""
    return list(_compare(writer, reader, "", {}, {}))


def check_folder(folder: Path) -> list[str]:
    """Return the problems of the schema files in `folder`, compared with its sub-folder `frozen`."""
    live, frozen = _versions(folder), _versions(folder / "frozen")
    problems = []
    for key, schema in sorted(frozen.items()):
        name = f"{key[0]} version {key[1]}"
        if key not in live:
            problems.append(f"{name} was removed, but brokers and lakes hold records of it")
        elif live[key] != schema:
            newest = max(version for other, version in live if other == key[0])
            problems.append(f"{name} is frozen but was changed; add version {newest + 1} instead")
    problems += [
        f"{name} version {version} is not frozen (python -m scripts.schema_compatibility --freeze)"
        for name, version in sorted(set(live) - set(frozen))
    ]
    keys = sorted(live)
    for index, old in enumerate(keys):
        for new in keys[index + 1 :]:
            if old[0] == new[0]:
                problems += [
                    f"{old[0]} version {old[1]} and {new[1]}: {problem}"
                    for problem in check(live[old], live[new])
                ]
    return problems


def check_history(folder: Path) -> list[str] | None:
    """Return the files in `folder`/frozen that differ from their first commit; None outside a git checkout."""
    frozen = folder / "frozen"
    said = _git(
        frozen, "log", "--reverse", "--diff-filter=A", "--no-renames", "--relative", "--name-only",
        "--format=commit %H", "--", ".",
    )  # fmt: skip
    if not said:
        return None
    first: dict[str, str] = {}
    commit = ""
    for line in said.splitlines():
        if line.startswith("commit "):
            commit = line.removeprefix("commit ")
        elif file_name_parts(line) is not None:
            first.setdefault(line, commit)
    problems = []
    for name, born in sorted(first.items()):
        before = _git(frozen, "show", f"{born}:./{name}")
        path = frozen / name
        if not path.is_file():
            problems.append(f"frozen/{name} was removed; commit {born[:12]} froze it")
        elif before is None or json.loads(before) != json.loads(path.read_text("utf-8")):
            problems.append(
                f"frozen/{name} differs from commit {born[:12]}, which froze it; restore it and add a new version"
            )
    return problems


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in `folder`; None if it fails, or if there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=60
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def freeze(folder: Path) -> list[str]:
    """Freeze the versions that have no frozen copy yet and return their names. Never overwrites a copy."""
    target = folder / "frozen"
    target.mkdir(exist_ok=True)
    done = []
    for path in sorted(folder.glob("*.avsc")):
        copy = target / path.name
        if not copy.exists():
            copy.write_bytes(path.read_bytes())
            done.append(path.name)
    return done


def _versions(folder: Path) -> dict[tuple[str, int], Any]:
    found = {}
    for path in folder.glob("*.avsc"):
        parts = file_name_parts(path.name)
        if parts is not None:
            found[parts] = json.loads(path.read_text("utf-8"))
    return found


def _compare(writer: Any, reader: Any, place: str, w_names: Names, r_names: Names) -> Iterator[str]:
    writer, reader = _resolved(writer, w_names), _resolved(reader, r_names)
    if isinstance(writer, list):
        for branch in writer:
            yield from _compare(branch, reader, place, w_names, r_names)
        return
    if isinstance(reader, list):
        if not any(not list(_compare(writer, branch, place, w_names, r_names)) for branch in reader):
            yield f"{place or 'the record'}: no branch of the reader takes {_kind(writer)}"
        return
    w_kind, r_kind = _kind(writer), _kind(reader)
    if w_kind != r_kind:
        if r_kind not in _PROMOTES.get(w_kind, ()):
            yield f"{place or 'the record'}: {w_kind} cannot be read as {r_kind}"
        return
    if w_kind == "record":
        yield from _compare_records(writer, reader, place, w_names, r_names)
    elif w_kind == "enum":
        yield from _compare_enums(writer, reader, place)
    elif w_kind == "array":
        yield from _compare(writer["items"], reader["items"], f"{place}[]", w_names, r_names)
    elif w_kind == "map":
        yield from _compare(writer["values"], reader["values"], f"{place}{{}}", w_names, r_names)
    elif w_kind == "fixed" and writer["size"] != reader["size"]:
        yield f"{place}: {writer['size']} bytes cannot be read as {reader['size']}"


def _compare_records(
    writer: Mapping[str, Any], reader: Mapping[str, Any], place: str, w_names: Names, r_names: Names
) -> Iterator[str]:
    yield from _compare_names(writer, reader, place)
    written = {field["name"]: field for field in writer["fields"]}
    for field in reader["fields"]:
        where = f"{place}.{field['name']}".lstrip(".")
        names = [field["name"], *field.get("aliases", ())]
        source = next((written[name] for name in names if name in written), None)
        if source is not None:
            yield from _compare(source["type"], field["type"], where, w_names, r_names)
        elif "default" not in field:
            yield f"{where}: the reader needs it, the writer has none, and there is no default"


def _compare_enums(writer: Mapping[str, Any], reader: Mapping[str, Any], place: str) -> Iterator[str]:
    yield from _compare_names(writer, reader, place)
    unknown = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
    if unknown and "default" not in reader:
        yield f"{place}: the reader does not know {', '.join(unknown)}"


def _compare_names(writer: Mapping[str, Any], reader: Mapping[str, Any], place: str) -> Iterator[str]:
    aliases = [alias.rpartition(".")[2] for alias in reader.get("aliases", ())]
    if writer["name"] not in (reader["name"], *aliases):
        yield f"{place or 'the record'}: {writer['name']} cannot be read as {reader['name']}"


def _resolved(schema: Any, names: Names) -> Any:
    """Return the schema with a named reference resolved, and remember the names that it defines."""
    if isinstance(schema, str):
        return names.get(schema.rpartition(".")[2], schema)
    if isinstance(schema, dict) and "name" in schema:
        names[schema["name"].rpartition(".")[2]] = schema
    if isinstance(schema, dict) and isinstance(schema["type"], dict | list):
        return _resolved(schema["type"], names)
    return schema


def _kind(schema: Any) -> str:
    return str(schema if isinstance(schema, str) else schema["type"])


def main(arguments: list[str] | None = None) -> int:
    """Print every problem and return the exit status: 0 if there is none, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.schema_compatibility", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--freeze", action="store_true", help="freeze versions that have no frozen copy yet")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the schema files are")
    options = parser.parse_args(arguments)
    if options.freeze:
        for name in freeze(options.folder):
            print(f"frozen: {name}")
    history = check_history(options.folder)
    problems = check_folder(options.folder) + (history or [])
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print(f"{len(_versions(options.folder))} schema versions, each reads every other of its name")
        print(
            "no git history to hold the frozen copies to"
            if history is None
            else "frozen copies as first committed"
        )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
