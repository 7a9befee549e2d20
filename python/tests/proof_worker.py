"""Runs proofs for `test_proof`, in a process that has one thread and nothing open, as a zygote.

Standard input: one JSON object a line, {"name", "text", "without": name of a fact that is not looked at}. Standard output: for each, one
line {"name", "shared", "why", "reads", "neighbour": what a fork of this process would find changed afterwards}.
"""

import importlib
import json
import sys

from rustic_ai.core.guild import agent  # noqa: F401
from rustic_ai.k8s.runtime.proof import facts, trial
from rustic_ai.k8s.runtime.proof.closure import Place, Unit
from rustic_ai.k8s.runtime.proof.inert import Snapshot
from rustic_ai.k8s.runtime.proof.prover import Prover, Share, Wish

_MEMORY = 256 << 20
_FACTS = dict(facts.FACTS)
# Seconds: for modules that never end.
trial._LONGEST = 5


def _prove(folder: str, name: str, text: str, without: str) -> dict[str, object]:
    with open(f"{folder}/{name}.py", "w") as file:
        file.write(text)
    importlib.invalidate_caches()
    before = Snapshot()
    facts.FACTS.pop(without, None)
    unit = Unit(name, Place.INSTALLED, [name])
    nothing: frozenset[str] = frozenset()
    wish = Wish([unit], "", Share.PROVEN, nothing, nothing, nothing, _MEMORY, frozenset({"TMPDIR"}), f"{folder}/trials")
    outcome = Prover(wish).run()
    facts.FACTS.update(_FACTS)
    return {
        "name": name,
        "shared": name in outcome.shared,
        "why": outcome.refused.get(name, ""),
        "reads": sorted(outcome.reads),
        # What this process finds changed, every fork of it finds.
        "neighbour": list(before.changes()),
    }


def main() -> None:
    """Entry point."""
    sys.path.insert(0, sys.argv[1])
    for line in sys.stdin:
        task = json.loads(line)
        print(json.dumps(_prove(sys.argv[1], task["name"], task["text"], task.get("without", ""))), flush=True)


if __name__ == "__main__":
    main()
