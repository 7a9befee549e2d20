"""An MCP server on standard input and output, started by an agent of rusticai-mcp."""

import os

from mcp.server.fastmcp import FastMCP

server = FastMCP("tools")


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers.

    Args:
        a: One of them.
        b: The other one.
    """
    return str(a + b)


@server.tool()
def process() -> str:
    """Returns the id of this process and its working directory."""
    return f"{os.getpid()} {os.getcwd()}"


if __name__ == "__main__":
    server.run()
