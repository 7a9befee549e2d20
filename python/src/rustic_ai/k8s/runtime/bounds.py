"""The memory that an agent may use beyond what its interpreter took before it was the agent's.

```text
interpreter, Rustic AI, what a zygote shares ──▶ limit() ──▶ the agent's class, its handlers ──▶ beyond the limit: MemoryError
```

`RLIMIT_DATA` counts private memory that is reserved, whether or not it was touched: 8 MiB for each thread, too. What the agent starts has the
same limit, each process for itself.
"""

from pathlib import Path
import resource

# The limit, in bytes, and what the process had before; 0: there is none.
_limit = _before = 0


def limit(memory: int) -> None:
    """Bounds the memory of this process; 0: it has no limit."""
    global _limit, _before
    if not memory:
        return
    _limit, _before = memory, _data()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    value = _before + memory if hard == resource.RLIM_INFINITY else min(_before + memory, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (value, value))


def explanation() -> str:
    """What to say of an allocation that failed; empty if the agent has no limit."""
    if not _limit:
        return ""
    used = max(_data() - _before, 0)
    return (
        f"the agent has {used:,} bytes of its memory limit of {_limit:,} bytes, and asked for more; "
        "raise custom_resources.memory of its spec, or --agent-memory of the hosts"
    )


def _data() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
