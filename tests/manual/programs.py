"""The manual's programs in Python, run as they stand in the test's own trio, except for the port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import rawws


class Program:
    """A block that ends with ``trio.run(…)``, which is left to the test."""

    def __init__(self, code: str, port: int = 0) -> None:
        """``port`` stands for 8080; 0 is any free one."""
        self.main: Callable[..., Awaitable[Any]] | None = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio, "run", self._capture)
            exec(compile(code.replace("8080", str(port)), "<manual>", "exec"), {"__name__": "__main__"})

    def _capture(self, main: Callable[..., Awaitable[Any]]) -> None:
        self.main = main

    async def serve(self, nursery: trio.Nursery) -> str:
        """Start a server in the test's nursery, and return its host and port."""
        assert self.main is not None, "the block runs no server"
        server = await nursery.start(self.main)
        assert isinstance(server, rawws.Server)
        return server.addresses[0]

    async def run(self) -> None:
        """Run a program that ends by itself."""
        assert self.main is not None, "the block runs nothing"
        await self.main()
