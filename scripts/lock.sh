#!/usr/bin/env bash
# Write the lock files anew from pyproject.toml: pinned, hashed, without any download address.
# The development set is resolved first and constrains the others, so that all of them agree.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
  "$uv" pip compile "$@" --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --no-header --no-annotate --quiet
}
compile pyproject.toml --extra dev -o requirements/dev.txt
compile pyproject.toml --extra demo -c requirements/dev.txt -o requirements/demo.txt
compile pyproject.toml --extra agent -c requirements/dev.txt -o requirements/agent.txt
for runtime in openvino litert executorch qnn; do
  compile pyproject.toml --extra $runtime -c requirements/dev.txt -o requirements/$runtime.txt
done
compile requirements/bootstrap.in -o requirements/bootstrap.txt
