"""A program's options for the handshakes of its server: origins, subprotocols, and hooks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace

from rawws.callables import check_function
from rawws.errors import UsageError
from rawws.limits import Limits, check_names
from rawws.options import ConnectionOptions
from rawws.server import plain_apps
from rawws.server.apps import Exchange, HttpApp, Middleware
from rawws.server.config import Authenticate, ProcessRequest, ProcessResponse, SelectSubprotocol, ServerConfig
from rawws.tracing import Tracer
from rawws.wire.messages import Response, is_token
from rawws.wire.origins import Origins

# An alternative to a list of origins: only pages of the server's own host may connect.
SAME_HOST = Origins()


@dataclass(frozen=True, slots=True)
class HandshakeOptions:
    """The keywords about a handshake, of `serve` and `rawws.attach`."""

    _: KW_ONLY
    origins: Origins | Iterable[str] | None
    authenticate: Authenticate | None
    subprotocols: Sequence[str] | None
    select_subprotocol: SelectSubprotocol | None
    process_request: ProcessRequest | None
    process_response: ProcessResponse | None

    def __post_init__(self) -> None:
        """Raises `UsageError` for an invalid subprotocol, and for a hook that doesn't take the right arguments."""
        check_names("subprotocols", self.subprotocols)
        _check_tokens(self.subprotocols or ())
        for what, hook, arguments in (
            ("authenticate", self.authenticate, ("request",)),
            ("process_request", self.process_request, ("request",)),
            ("process_response", self.process_response, ("request", "response")),
            ("select_subprotocol", self.select_subprotocol, ("request", "offered")),
        ):
            if hook is not None:
                check_function(what, hook, *arguments)

    @property
    def may_refuse(self) -> bool:
        """Whether the program decides about each request."""
        return self.authenticate is not None or self.process_request is not None

    def make_config(
        self,
        options: ConnectionOptions,
        *,
        http: HttpApp | plain_apps.Answer | None = None,
        more_subprotocols: Sequence[str] = (),
        server_header: str | None = None,
        tracer: Tracer | None = None,
    ) -> ServerConfig:
        """Return the configuration that all connections share. Raises `UsageError` for a value that can't be used.

        ``more_subprotocols`` are those of the handler, after the program's own.
        """
        if server_header is not None:
            Response(200, b"", {"Server": server_header})  # raises for what can't be a header's value
        _check_tokens(more_subprotocols)
        app, limits = _choose_app(http, options.to_limits())
        return ServerConfig(
            app=app,
            # An application has to be waited for, and it answers nearly all requests that there are.
            prompt_app=http if isinstance(http, HttpApp) and not plain_apps.find_application(http) else None,
            is_own=http.is_own if isinstance(http, Middleware) else None,
            limits=limits,
            fast_lane=options.fast_lane,
            origins=Origins.of(self.origins),
            compression=options.compression is not None,
            subprotocols=(*(self.subprotocols or ()), *more_subprotocols),
            select_subprotocol=self.select_subprotocol,
            authenticate=self.authenticate,
            process_request=self.process_request,
            process_response=self.process_response,
            server_header=server_header,
            tracer=tracer or Tracer(),
        )


def _check_tokens(subprotocols: Sequence[str]) -> None:
    for name in subprotocols:
        if not isinstance(name, str) or not is_token(name):
            raise UsageError(f"{name!r} can't be a subprotocol; give a token, such as chat.v1 (RFC 6455 §4.1)")


def _choose_app(
    http: HttpApp | plain_apps.Answer | None, limits: Limits
) -> tuple[Callable[[Exchange], Awaitable[None]], Limits]:
    """Return what answers requests, and the limits with the size of a body that it takes."""
    if http is None:
        return plain_apps.UpgradeOnlyApp(), limits
    if isinstance(http, HttpApp):
        return http.serve_exchange, replace(limits, max_body_bytes=http.max_body_bytes(limits))
    return plain_apps.CallableApp(http), limits
