"""Puts the table of the latest long run into `docs/chaos.md`: `PYTHONPATH=tests python -m chaos.document`."""

import json
from typing import Any

from chaos.report import table
from chaos.stack import ROOT

_DOCUMENT = ROOT / "docs" / "chaos.md"
_LATEST = ROOT / "tests" / "chaos" / "results" / "latest.json"
_BEGIN, _END = "<!-- chaos: written by chaos.document -->\n", "<!-- chaos: end -->\n"
# What the document leaves to the JSON.
_LEFT_OUT = ("longest_ms",)


def section(document: dict[str, Any]) -> str:
    """The text between the marks."""
    about = document["about"]
    rows = [{key: value for key, value in row.items() if key not in _LEFT_OUT} for row in document["rows"]]
    summary = (
        f"{about['agents']} agents on 3 hosts, 2 engines, {about['lease']}, {about['cores']} cores; {about['lives']} "
        f"lives of agents, {document['requests']} messages; {about['date']}, `{about['commit']}`, seed {about['seed']}."
    )
    # A line right below a table would be a row of it.
    return f"{summary}\n\n{table(rows)}\n\n"


def insert(document: str, text: str) -> str:
    """The document with the text between the marks.

    Raises:
        ValueError: The marks are not there.
    """
    before, _, rest = document.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    if not rest or _END not in rest:
        raise ValueError(f"docs/chaos.md lacks the lines {_BEGIN!r} and {_END!r}")
    return f"{before}{_BEGIN}{text}{_END}{after}"


def main() -> None:
    """Entry point."""
    _DOCUMENT.write_text(insert(_DOCUMENT.read_text(), section(json.loads(_LATEST.read_text()))))


if __name__ == "__main__":
    main()
