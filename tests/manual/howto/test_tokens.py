"""The page about an application's logins, and about tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

from tests.browser import launch, need_chromium
from tests.manual.howto.test_browser import Console
from tests.manual.howto.walk import OWN_TEST, Walk, blocks_of
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import StartProgram

# A project with the view of the page, and a user that has logged in. It prints its port and the session.
DJANGO = """
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings
from django.urls import path

settings.configure(
    SECRET_KEY="x" * 50,
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    USE_TZ=True,
)
django.setup()

import views
from django.contrib.auth.models import User
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.test import Client

urlpatterns = [path("auth", views.auth)]
call_command("migrate", verbosity=0)
client = Client()
client.force_login(User.objects.create_user("alice"))


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


server = make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet)
print(server.server_port, client.cookies["sessionid"].value, flush=True)
server.serve_forever()
"""


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    need_chromium()
    for name in ("fastapi", "jwt"):
        need(find_spec(name), name)
    from playwright.sync_api import sync_playwright

    scripts: list[str] = []
    walk.follow("howto/tokens", js=scripts.append)
    (script,) = scripts
    room = f"http://localhost:{walk.port('8081')}/room/alice"
    token = subprocess.check_output([sys.executable, "sign.py"], cwd=walk.folder, text=True).strip()
    with sync_playwright() as playwright:
        console = Console(launch(playwright).new_page())
        console.tab.goto(room)  # a refusal, which has the same origin as the room
        console.paste(f"window.token = '{token}'; {script}; window.ws = ws; window.events = events")
        console.tab.wait_for_function("events.readyState === EventSource.OPEN && ws.readyState === WebSocket.OPEN")
        assert console.tab.evaluate("ws.protocol") == "chat.v1"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "text/plain"}
        answer = httpx.post(room, content="news", headers=headers, trust_env=False)
        assert answer.json()["peers"] == 2
        console.wait_for("socket: news", "events: news")


@pytest.fixture
def django(tmp_path: Path) -> list[str]:
    need(find_spec("django"), "django")
    (view,) = [block for block in blocks_of("howto/tokens") if block.note == OWN_TEST]
    (tmp_path / view.file_name).write_text(view.text)
    (tmp_path / "project.py").write_text(DJANGO)
    return [sys.executable, "-W", "error", "project.py", "db.sqlite3"]


def test_the_view_for_django_decides(django: list[str], tmp_path: Path, start_program: StartProgram) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(django, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port, session = process.stdout.readline().split()
            program = start_program("--auth-url", f"http://{LOOPBACK}:{port}/auth", "--hello", "hello")
            room = f"{program.address}/room/alice"
            answer = httpx.get(f"http://{room}?last=1", trust_env=False)
            assert (answer.status_code, answer.text) == (401, "Log in first.\n")
            cookie = {"Cookie": f"sessionid={session}"}
            with connect(f"ws://{room}", additional_headers=cookie, proxy=None) as ws:
                assert ws.recv(PATIENCE_S) == "hello"
                ws.send("mine")
                assert ws.recv(PATIENCE_S) == "mine"
            answer = httpx.post(f"http://{program.address}/room/news", content="x", headers=cookie, trust_env=False)
            assert answer.status_code == 403
        finally:
            process.kill()
