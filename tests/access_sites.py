"""The program in surroundings that may not change who gets in where: with TLS, beside an application, on two nodes."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trustme

from tests.access_table import Site
from tests.redis_server import redis_server
from tests.serving.programs import StartProgram

PLAIN, TLS, BESIDE, TWO_NODES = SURROUNDINGS = ("plain", "tls, compressed", "beside an application", "two nodes")

APPLICATION = """
async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'the application'})
"""


@asynccontextmanager
async def site(where: str, start_program: StartProgram, folder: Path, *flags: str) -> AsyncIterator[Site]:
    """Start the program with flags in its surroundings. On two nodes, the site's helper is the other one."""
    flags = (*flags, "--hello", "", "--history", "10")
    match where:
        case "two nodes":
            (folder / "redis").mkdir()
            async with redis_server(folder / "redis") as redis:
                one, other = [start_program(*flags, "--backplane", redis.url, directory=folder) for _ in range(2)]
                yield Site(one.port, helper=other.port)
                for program in (one, other):
                    program.end()
        case "tls, compressed":
            authority = trustme.CA()
            authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "chain.pem")
            tls = ssl.create_default_context()
            authority.configure_trust(tls)
            program = start_program(*flags, "--tls-cert", str(folder / "chain.pem"))
            yield Site(program.port, tls=tls, compression="deflate")
        case "beside an application":
            (folder / "pages.py").write_text(APPLICATION)
            program = start_program(*flags, "--app", "pages:app", directory=folder)
            yield Site(program.port)
            reply = await Site(program.port, room="/elsewhere").ask(None)
            assert reply.body == b"the application", "grants are for rooms"
        case _:
            yield Site(start_program(*flags).port)
