#!/usr/bin/env bash
# Prints the path of a Python 3.13: from PATH, from pyenv, or through uv. Says what to install when there is none.
set -euo pipefail

is_313() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; }

for candidate in "${PYTHON:-}" python3.13 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.13.*/bin/python3.13; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if is_313 "$path"; then
        echo "$path"
        exit
    fi
done
if command -v uv >/dev/null && uv python install -q 3.13 2>/dev/null; then
    uv python find 3.13
    exit
fi
echo "No Python 3.13 found on PATH, in pyenv or through uv; rusticai-core needs it. Install one of:" >&2
echo "  uv:    https://docs.astral.sh/uv/ (then run this again)" >&2
echo "  pyenv: pyenv install 3.13" >&2
echo "or name it: make PYTHON=/path/to/python3.13 ..." >&2
exit 1
