"""The lifespan of an ASGI application: its startup and shutdown (lifespan part 2.0)."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import trio

from rawws import logs
from rawws.application.loop import GRACE_S, ApplicationLoop, Channel
from rawws.application.spec import LIFESPAN_VERSIONS, Application, Message
from rawws.errors import UsageError
from rawws.hooks import is_application_error, log_failure
from rawws.runtime import explain_loop, hint_at_loop
from rawws.wire.trace import FAULT, STATE


class NeedsOtherLoop(UsageError):
    """The application can't start on this loop, and there is another one to try."""


class Lifespan:
    """The application's call with the ``lifespan`` scope, which lasts as long as the server."""

    def __init__(self, loop: ApplicationLoop, app: Application, state: dict[str, Any]) -> None:
        self._loop = loop
        self._app = app
        self._state = state
        self._events, self._pending_events = trio.open_memory_channel[Message](2)
        # Shielded: when the server is cancelled, the application still has time to clean up.
        self._scope = trio.CancelScope(shield=True)
        self._startup_answered = trio.Event()
        self._shutdown_answered = trio.Event()
        self._over = trio.Event()  # the application sends nothing more
        self._is_up = False
        self._startup_failed: str | None = None  # in the application's words
        self._shutdown_failed: str | None = None
        self._is_out_of_reach = False
        self._error: BaseException | None = None

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        scope = {"type": "lifespan", "asgi": dict(LIFESPAN_VERSIONS), "state": self._state}
        with self._scope:
            try:
                await self._loop.call(self._app, scope, Channel(self._receive, self._send))
            except BaseException as error:
                if not is_application_error(error):
                    raise
                self._error = error
                if self._is_up:
                    log_failure(logs.server, logs.SERVER, "the ASGI application's lifespan failed", error)
            finally:  # after a Ctrl-C too, or a waiting task would never end
                for event in (self._startup_answered, self._shutdown_answered, self._over):
                    event.set()

    @trio.lowlevel.enable_ki_protection
    async def _receive(self) -> Message:
        with contextlib.suppress(trio.EndOfChannel):
            return await self._pending_events.receive()
        self._over.set()
        return await trio.sleep_forever()

    @trio.lowlevel.enable_ki_protection
    async def _send(self, message: Message) -> None:
        match message.get("type"):
            case "lifespan.startup.complete":
                self._is_up = True
                self._startup_answered.set()
            case "lifespan.startup.failed":
                self._startup_failed = message.get("message") or "it doesn't say why"
                self._startup_answered.set()
            case "lifespan.shutdown.complete":
                self._shutdown_answered.set()
            case "lifespan.shutdown.failed":
                self._shutdown_failed = message.get("message") or "it doesn't say why"
                self._shutdown_answered.set()
            case kind:
                raise UsageError(f"an ASGI application can't send {kind!r} in its lifespan")

    async def start(self, *, required: bool, is_last: bool = True) -> None:
        """Have the application start. Raises `UsageError` if it fails, or knows no lifespan though one is required.

        It is `NeedsOtherLoop` if the application needs another loop, and this isn't the last one to try.
        """
        self._events.send_nowait({"type": "lifespan.startup"})
        await self._startup_answered.wait()
        if self._is_up:
            return
        self._events.close()
        with trio.move_on_after(GRACE_S):
            await self._over.wait()
        needs_other_loop = "" if self._error is None else explain_loop(self._error)
        if (message := self._startup_failed) is not None:
            message = message.rstrip()  # Starlette's is a whole traceback
            hint = self._hint(message)
            space = "\n" if "\n" in message else " "
            message = f" {needs_other_loop}" if needs_other_loop else space + _advise(message, hint)
            kind = NeedsOtherLoop if (needs_other_loop or hint) and not is_last else UsageError
            raise kind(f"the ASGI application can't start:{message}") from self._error
        if needs_other_loop and not is_last:
            raise NeedsOtherLoop(f"the ASGI application can't start: {needs_other_loop}") from self._error
        why = "it returned" if self._error is None else f"{type(self._error).__name__}: {self._error}"
        self._check_may_lack_lifespan(needs_other_loop or why, required=required)

    def _check_may_lack_lifespan(self, why: str, *, required: bool) -> None:
        if required:
            raise UsageError(
                f"the ASGI application doesn't answer lifespan.startup, which lifespan='on' asks for: {why}"
            ) from self._error
        # "If an exception is raised ... the server must continue but not send any lifespan events."
        message = f"the ASGI application has no lifespan, so it gets no startup and shutdown events: {why}"
        logs.server_line(logging.INFO, STATE, message)

    async def stop(self) -> None:
        """Have the application shut down, within `GRACE_S` if this is cancelled. A failure is logged."""
        try:
            if self._is_up:
                self._events.send_nowait({"type": "lifespan.shutdown"})
                self._events.close()
                await self._wait_end()
        finally:
            self._scope.cancel()
        if self._shutdown_failed is not None and self._error is None:  # else it has been logged
            message = self._shutdown_failed.rstrip()
            log_fault(f"the ASGI application failed to shut down: {_advise(message, self._hint(message))}")

    def _hint(self, message: str) -> str:
        return hint_at_loop(message, is_on_trio=self._loop.name == "trio")

    async def _wait_end(self) -> None:
        try:
            await self._wait_answer()
        finally:
            if not self._is_out_of_reach:
                await self._wait_over()

    async def _wait_over(self) -> None:
        with trio.CancelScope(deadline=trio.current_time() + GRACE_S, shield=True):
            await self._over.wait()
        if not self._over.is_set():
            log_fault(f"the ASGI application did not end within {GRACE_S:g} seconds of shutdown; cancelled")

    async def _wait_answer(self) -> None:
        """Wait for the end of the shutdown, unless it can't reach the application, which blocks its loop."""

        async def give_up() -> None:
            await self._loop.wait_blocked()
            self._is_out_of_reach = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up)
            # "A server must wait for this message before terminating."
            await self._shutdown_answered.wait()
            nursery.cancel_scope.cancel()


def log_fault(text: str) -> None:
    logs.server_line(logging.ERROR, FAULT, text)


def _advise(message: str, hint: str) -> str:
    """Return an application's own message, which may be a whole traceback, and advice after it."""
    if not hint:
        return message
    return f"{message}\nI{hint[1:]}." if "\n" in message else f"{message}; {hint}"
