"""The libraries of applications that exist: each works in a route of an application on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio

from rawws.application.loading import interface_of
from rawws.server.asgi import asgi, wsgi
from tests.asgi_serving import serving
from tests.redis_server import RedisServer, free_port
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get

# Each test that needs one of these says so.
with contextlib.suppress(ImportError):
    import fastapi
with contextlib.suppress(ImportError):
    import httpx
with contextlib.suppress(ImportError):
    import starlette.applications
    import starlette.concurrency
    import starlette.responses
    import starlette.routing


class Servers:
    """The addresses of servers that run in the test."""

    def __init__(self) -> None:
        self.http = ""
        self.redis = ""
        self.postgres = ""
        self.sqlite = ""


Work = Callable[[Servers], Awaitable[str]]


async def asyncio_itself(_: Servers) -> str:
    queue: asyncio.Queue[str] = asyncio.Queue()
    slept = list(await asyncio.gather(asyncio.sleep(0.001, "a"), asyncio.to_thread(lambda: "b")))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(queue.put("c"))
        slept.append(await queue.get())
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print('d')", stdout=asyncio.subprocess.PIPE)
    written = (await process.communicate())[0]
    return "".join([*slept, written.decode().strip()])


async def of_sqlalchemy(servers: Servers) -> str:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(servers.sqlite)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("create table letters (letter text)"))
            await connection.execute(text("insert into letters values ('a'), ('b')"))
            rows = await connection.execute(text("select group_concat(letter, '') || 'cd' from letters"))
            return str(rows.scalar())
    finally:
        await engine.dispose()


async def of_asyncpg(servers: Servers) -> str:
    asyncpg: Any = importlib.import_module("asyncpg")  # it has no types
    pool = await asyncpg.create_pool(servers.postgres, min_size=1, max_size=2)
    async with pool, pool.acquire() as connection, connection.transaction():
        return str(await connection.fetchval("select 'ab' || $1", "cd"))


async def of_redis(servers: Servers) -> str:
    import redis.asyncio

    async with redis.asyncio.from_url(servers.redis, decode_responses=True) as client:
        await client.set("letters", "abcd")
        return str(await client.get("letters"))


async def of_aiohttp(servers: Servers) -> str:
    import aiohttp

    async with aiohttp.ClientSession() as session, session.get(servers.http) as response:
        return await response.text()


async def of_httpx(servers: Servers) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(servers.http)).text


async def of_asgiref(_: Servers) -> str:
    from asgiref.sync import async_to_sync, sync_to_async

    async def inner() -> str:
        await asyncio.sleep(0)
        return "abcd"

    return str(await sync_to_async(async_to_sync(inner))())


async def of_anyio(_: Servers) -> str:
    import anyio
    import anyio.to_thread

    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 0)
    return await anyio.to_thread.run_sync(lambda: "abcd")


LIBRARIES: dict[str, Work] = {
    "asyncio": asyncio_itself,
    "sqlalchemy": of_sqlalchemy,
    "asyncpg": of_asyncpg,
    "redis": of_redis,
    "aiohttp": of_aiohttp,
    "httpx": of_httpx,
    "asgiref": of_asgiref,
    "anyio": of_anyio,
}


@pytest.fixture
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL server of this test's own."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(found[-1]) if found else None)
    need(initdb, "postgresql")
    assert initdb is not None
    # It refuses to run as root, and pytest's own directories are for their owner alone.
    user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as directory:
        if user:
            shutil.chown(directory, **user)
        data, port = f"{directory}/data", str(free_port())
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": "/", **user}
        subprocess.run(
            [initdb, "-D", data, "-U", "test", "-A", "trust", "--no-sync"], check=True, timeout=PATIENCE_S, **quiet
        )
        program = str(Path(initdb).resolve().with_name("postgres"))
        command = [program, "-D", data, "-h", LOOPBACK, "-p", port, "-k", directory, "-F"]
        with subprocess.Popen(command, **quiet) as server:
            try:
                yield f"postgresql://test@{LOOPBACK}:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)  # "fast": it doesn't wait for its clients


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.thorough) if name == "asyncpg" else name for name in LIBRARIES]
)
@pytest.mark.parametrize("loop", ["asyncio", pytest.param("uvloop", marks=pytest.mark.thorough)])
async def test_a_library_for_asyncio_works_in_a_route(
    name: str, loop: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    for needed in {"fastapi", name, "aiosqlite" if name == "sqlalchemy" else name, loop}:
        need(find_spec(needed), needed)
    app = fastapi.FastAPI()
    servers = Servers()
    servers.sqlite = f"sqlite+aiosqlite:///{tmp_path}/letters.db"
    redis_server: RedisServer | None = None
    if name == "asyncpg":
        servers.postgres = request.getfixturevalue("postgres")
        await connectable(int(servers.postgres.rpartition(":")[2].partition("/")[0]))
    elif name == "redis":
        need(shutil.which("redis-server"), "redis-server")
        redis_server = RedisServer(tmp_path)
        await redis_server.start()
        servers.redis = redis_server.url

    @app.get("/letters", response_class=fastapi.responses.PlainTextResponse)
    async def letters() -> str:
        return await LIBRARIES[name](servers)

    @app.get("/plain", response_class=fastapi.responses.PlainTextResponse)
    def plain() -> str:
        return "abcd"

    try:
        async with serving(asgi(app, loop=loop)) as site:
            servers.http = f"{site.url}/plain"
            assert await site.ask(get("/letters")) == (200, b"abcd")
            assert await site.ask(get("/letters" if name != "sqlalchemy" else "/plain")) == (200, b"abcd")
    finally:
        if redis_server is not None:
            redis_server.kill()


async def connectable(port: int) -> None:
    """Wait until something listens at the port."""
    with trio.fail_after(PATIENCE_S):
        while True:
            with contextlib.suppress(OSError):
                stream = await trio.open_tcp_stream(LOOPBACK, port)
                await stream.aclose()
                return
            await trio.sleep(0.02)


# Frameworks


def of_starlette() -> Any:
    async def hello(request: Any) -> Any:
        await asyncio.sleep(0)
        name = await starlette.concurrency.run_in_threadpool(lambda: request.path_params["name"])
        return starlette.responses.PlainTextResponse(f"hello {name}")

    return starlette.applications.Starlette(routes=[starlette.routing.Route("/hello/{name}", hello)])


def of_fastapi() -> Any:
    app = fastapi.FastAPI()

    async def greeting() -> str:
        await asyncio.sleep(0)
        return "hello"

    @app.get("/hello/{name}", response_class=fastapi.responses.PlainTextResponse)
    def hello(name: str, word: str = fastapi.Depends(greeting)) -> str:
        return f"{word} {name}"

    return app


def of_quart() -> Any:
    import quart

    app = quart.Quart("tests")

    @app.get("/hello/<name>")
    async def hello(name: str) -> str:
        await asyncio.sleep(0)
        return f"hello {name}"

    return app


def of_flask() -> Any:
    import flask

    app = flask.Flask("tests")

    @app.get("/hello/<name>")
    def hello(name: str) -> str:
        return f"hello {name}"

    return app


def of_a2wsgi() -> Any:
    import a2wsgi

    return a2wsgi.WSGIMiddleware(of_flask())


def of_a2wsgi_the_other_way() -> Any:
    import a2wsgi

    return a2wsgi.ASGIMiddleware(of_starlette())


def of_asgirefs_adapter() -> Any:
    adapter: Any = importlib.import_module("asgiref.wsgi").WsgiToAsgi  # it has no types
    return adapter(of_flask())


FRAMEWORKS: dict[str, tuple[Callable[[], Any], str]] = {
    "starlette": (of_starlette, "asgi"),
    "fastapi": (of_fastapi, "asgi"),
    "quart": (of_quart, "asgi"),
    "flask": (of_flask, "wsgi"),
    "a2wsgi": (of_a2wsgi, "asgi"),
    "a2wsgi of asgi": (of_a2wsgi_the_other_way, "wsgi"),
    "asgiref": (of_asgirefs_adapter, "asgi"),
}


@pytest.mark.parametrize("name", FRAMEWORKS)
async def test_an_application_of_a_framework_answers(name: str) -> None:
    for needed in (name.partition(" ")[0], "flask", "starlette"):
        need(find_spec(needed), needed)
    make, interface = FRAMEWORKS[name]
    app = make()
    assert interface_of(app) == interface
    http = asgi(app, loop="asyncio") if interface == "asgi" else wsgi(app)
    async with serving(http) as site:
        for who in ("you", "me"):
            assert await site.ask(get(f"/hello/{who}")) == (200, f"hello {who}".encode())
        assert (await site.ask(get("/missing")))[0] == 404


async def test_a_flask_application_keeps_its_session_and_takes_uploads() -> None:
    need(find_spec("flask"), "flask")
    import flask

    app = flask.Flask("tests", root_path=str(Path(__file__).parent))
    app.secret_key = "of a test"

    @app.post("/login")
    def login() -> Any:
        flask.session["user"] = flask.request.form["user"]
        return flask.redirect("/")

    @app.get("/")
    def index() -> str:
        return f"user {flask.session.get('user')}"

    @app.post("/upload")
    def upload() -> dict[str, Any]:
        file = flask.request.files["file"]
        return {"name": file.filename, "size": len(file.read())}

    @app.get("/stream")
    def stream() -> Any:
        return flask.Response((f"{number}\n" for number in range(3)), mimetype="text/plain")

    async with (
        serving(wsgi(app)) as site,
        httpx.AsyncClient(base_url=site.url, trust_env=False, follow_redirects=True) as client,
    ):
        assert (await client.post("/login", data={"user": "Zoë"})).text == "user Zoë"
        assert (await client.get("/")).text == "user Zoë"
        uploaded = await client.post("/upload", files={"file": ("a.bin", bytes(300_000))})
        assert uploaded.json() == {"name": "a.bin", "size": 300_000}
        assert (await client.get("/stream")).text == "0\n1\n2\n"


# Django, as its users run it

SETTINGS = """
from pathlib import Path
BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "of a test"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
INSTALLED_APPS = ["django.contrib." + name for name in ("admin", "auth", "contenttypes", "sessions", "messages")]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [{
    "BACKEND": "django.template.backends.django.DjangoTemplates",
    "APP_DIRS": True,
    "OPTIONS": {"context_processors": [
        "django.template.context_processors.request",
        "django.contrib.auth.context_processors.auth",
        "django.contrib.messages.context_processors.messages",
    ]},
}]
ROOT_URLCONF = "mysite.urls"
STATIC_URL = "static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
"""
URLS = """
import asyncio
from django.contrib import admin
from django.contrib.auth.models import User
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

def sync_view(request):
    return HttpResponse("sync")

async def async_view(request):
    await asyncio.gather(asyncio.sleep(0), asyncio.to_thread(lambda: None))
    return HttpResponse("async")

async def users(request):
    names = [user.username async for user in User.objects.all()]
    return HttpResponse(",".join(names))

async def letters():
    for letter in "abc":
        await asyncio.sleep(0)
        yield letter

async def streamed(request):
    return StreamingHttpResponse(letters())

urlpatterns = [
    path("admin/", admin.site.urls),
    path("sync", sync_view), path("async", async_view), path("users", users), path("streamed", streamed),
]
"""
INTERFACE = """
import os
from django.core.{name} import get_{name}_application
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")
application = get_{name}_application()
"""


@pytest.fixture
def mysite(tmp_path: Path) -> Path:
    """Return the directory of a Django project."""
    need(find_spec("django"), "django")
    site = tmp_path / "mysite"
    site.mkdir()
    files = {"__init__": "", "settings": SETTINGS, "urls": URLS}
    files |= {name: INTERFACE.format(name=name) for name in ("asgi", "wsgi")}
    for name, source in files.items():
        (site / f"{name}.py").write_text(source, "utf-8")
    return tmp_path


def manage(directory: Path, *arguments: str) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "mysite.settings", "DJANGO_SUPERUSER_PASSWORD": "secret"}
    command = [sys.executable, "-m", "django", *arguments]
    subprocess.run(command, check=True, cwd=directory, env={**environment, "PYTHONPATH": "."}, timeout=2 * PATIENCE_S)


def client_of(program: Program) -> httpx.Client:
    return httpx.Client(
        base_url=f"http://{program.address}", trust_env=False, follow_redirects=True, timeout=PATIENCE_S
    )


INTERFACES = [("asgi", "asyncio, in a thread of its own"), ("wsgi", "threads, at most 40 at a time (WSGI)")]


@pytest.mark.parametrize(("interface", "where"), INTERFACES)
def test_a_django_project_answers_with_all_kinds_of_views(
    interface: str, where: str, mysite: Path, start_program: StartProgram
) -> None:
    program = start_program("--app", f"mysite.{interface}:application", directory=mysite)
    assert any(where in line for line in program.lines)
    with client_of(program) as client:
        assert client.get("/sync").text == "sync"
        assert client.get("/async").text == "async"
        assert 'name="csrfmiddlewaretoken"' in client.get("/admin/login/").text
        if interface == "asgi":
            assert client.get("/streamed").text == "abc"


@pytest.mark.thorough
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_a_user_of_django_logs_in_at_the_admin(interface: str, mysite: Path, start_program: StartProgram) -> None:
    manage(mysite, "migrate", "-v0")
    manage(mysite, "createsuperuser", "--noinput", "--username", "zoe", "--email", "zoe@example.com")
    program = start_program("--app", f"mysite.{interface}:application", directory=mysite)
    with client_of(program) as client:
        page = client.get("/admin/")
        token = page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
        form = {"username": "zoe", "password": "secret", "csrfmiddlewaretoken": token, "next": "/admin/"}
        assert "Site administration" in client.post("/admin/login/", data=form).text
        assert client.get("/users").text == "zoe"
