"""Tables of rows, with ratios to our own figures."""

from typing import Any

# Of each measurement: the figure that is compared, and the row it is compared with.
_COMPARED = {"one_by_one": "p50_ms", "burst": "per_second", "memory": "pss_mb_per_agent"}
_TITLES = {
    "one_by_one": "Create to ready, one by one",
    "steps": "Steps of our create, one by one",
    "commands": "Agents that are a plain program, one by one",
    "burst": "All at once",
    "memory": "Idle agents",
    "calls": "Calls",
    "messages": "Messages",
    "confinement": "With confinement and without",
    "imports": "Create to ready, by what the class imports",
    "density": "Density",
    "recovery": "Recovery",
}


def add_ratios(rows: dict[str, list[dict[str, Any]]]) -> None:
    """Adds `ratio_to_ours`: how many times our figure a peer's is. Ours is the first row through K8sExecutionEngine."""
    for name, figure in _COMPARED.items():
        ours = next((row for row in rows.get(name, []) if row["name"].startswith("ours") and _is_usual(row)), None)
        for row in rows.get(name, []):
            if ours:
                row["ratio_to_ours"] = round(row[figure] / ours[figure], 2)


def _is_usual(row: dict[str, Any]) -> bool:
    """Memory is compared at a hundred agents; everything else has one row of ours only."""
    return "pss_mb_per_agent" not in row or row["n"] >= 100


def tables(rows: dict[str, list[dict[str, Any]]]) -> str:
    """All rows as Markdown."""
    return "\n\n".join(f"### {title}\n\n{_table(rows[name])}" for name, title in _TITLES.items() if rows.get(name))


def _table(rows: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        return _lines(["figure", "value"], [[key, str(value)] for key, value in rows[0].items()])
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return _lines(columns, [[str(row.get(column, "")) for column in columns] for row in rows])


def _lines(head: list[str], body: list[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])
