"""What is ours is offered by nobody: the API server of Rustic AI lists agents, and none of them is of this distribution."""

from pathlib import Path
import subprocess
import sys

import griffe

import rustic_ai.k8s
from rustic_ai.core import Agent

_AGENT = Agent.get_qualified_class_name()


def _agents_of(module: griffe.Object | griffe.Alias) -> list[str]:
    """As rusticai-api 1.4.0 looks for them, in its `guilds/router.py`: in the source, which it then imports."""
    found = []
    for name in module.all_members:
        member = module.get_member(name)
        if member.is_alias:
            continue
        if member.is_module:
            found += _agents_of(member)
        elif isinstance(member, griffe.Class) and _is_agent(member):
            found.append(member.path)
    return found


def _is_agent(member: griffe.Class) -> bool:
    return any(
        base.path == _AGENT or (isinstance(base, griffe.Class) and _is_agent(base)) for base in member.resolved_bases
    )


def test_the_api_server_finds_no_agent_of_ours() -> None:
    source = Path(rustic_ai.k8s.__file__).parents[2]
    core = Path(sys.modules["rustic_ai.core"].__file__ or "").parents[2]
    found = _agents_of(griffe.load("rustic_ai", search_paths=[source, core]))
    assert "rustic_ai.core.agents.testutils.echo_agent.EchoAgent" in found, "it finds those that there are"
    assert not [path for path in found if path.startswith("rustic_ai.k8s")]


_REGISTRY = """
from rustic_ai.core.guild.metaprog.agent_registry import AgentRegistry
from rustic_ai.core.utils.class_utils import get_agent_class
from rustic_ai.k8s.runtime import rehearsal
rehearsal.rehearse()
assert get_agent_class("rustic_ai.k8s.runtime.rehearsal.Player") is rehearsal.Player
print([name for name in AgentRegistry.list_agents() if "k8s" in name])
"""


def test_a_rehearsal_leaves_no_agent_in_the_registry() -> None:
    done = subprocess.run([sys.executable, "-c", _REGISTRY], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
