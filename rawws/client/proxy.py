"""HTTP proxies of a client: which one an address needs, and a connection through it (RFC 9110 §9.3.6)."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from rawws.client.attempt import Attempt
from rawws.net.transport import Transport
from rawws.wire.client_handshake import basic_authorization
from rawws.wire.handshake_errors import ProxyError
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.uri import WebSocketURI

# Advice for each status by which a proxy refuses (RFC 9110 §15).
_ADVICE = {
    407: "; give your user name and password in its address, as http://user:password@host:port",
    403: "; its operator does not allow that",
    502: "; it has no connection to there itself",
    503: "; it has no connection to there itself",
    504: "; it has no connection to there itself",
}
_REFUSED_USER = "; it does not accept the user name and password in its address"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy: its address as written, and the source of that, for errors."""

    address: str
    source: str

    @classmethod
    def find(cls, given: str | bool | None, uri: WebSocketURI) -> Proxy | None:
        """Return the proxy for a server: the one that the program gave, or with True that of the environment."""
        if given is not True:
            return cls(given, "that was given") if given else None
        proxies = getproxies_environment()
        if not proxy_bypass(f"{uri.host}:{uri.port}"):
            for scheme in ("wss", "https", "all") if uri.secure else ("ws", "http", "all"):
                if proxies.get(scheme):
                    source = f"of {scheme}_proxy in the environment, to which no_proxy makes exceptions"
                    return cls(proxies[scheme], source)
        return None

    async def connect(self, attempt: Attempt, uri: WebSocketURI, user_agent: str | None) -> socket.socket:
        """Return a socket that the proxy has connected to a server. It is the caller's to close.

        Raises `ProxyError`, and OSError when there is no connection to the proxy.
        """
        parts = self._parse(uri)
        try:
            connected = await attempt.dial(parts.hostname or "", parts.port or 80)
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}; that is the proxy {self.source}") from error
        whom = f"the proxy {_name(parts)}"
        transport = Transport(connected)
        try:
            request = _make_request(parts, uri, user_agent)
            phase, response = await attempt.ask(
                transport, request, whom, ProxyError, tls_advice="only proxies that speak plain HTTP can be used"
            )
            if not 200 <= response.status < 300:
                raise _refused(whom, request.target, response, has_user=bool(parts.username))
            if phase.trailing_data:
                raise ProxyError(f"{whom} sent bytes after its answer")
            attempt.through = f" (through {whom})"
            return transport.detach()
        except BaseException:
            transport.close()
            raise

    def _parse(self, uri: WebSocketURI) -> SplitResult:
        """Return the parts of the address. Raises `ProxyError` for one that is not ``http://host:port``."""
        try:
            parts = urlsplit(self.address if "://" in self.address else f"http://{self.address}")
            name = _name(parts)
        except ValueError as error:
            raise ProxyError(f"the address of the proxy can't be used: {error}") from None
        if parts.scheme != "http" or not parts.hostname:
            raise ProxyError(
                f"the proxy {name} can't be used: only http:// proxies can; give proxy=None to go without, or name "
                f"{uri.host} in no_proxy in the environment"
            )
        return parts


def _name(parts: SplitResult) -> str:
    """Return the address without its user. Raises ValueError for an invalid port."""
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 80}"


def _make_request(parts: SplitResult, uri: WebSocketURI, user_agent: str | None) -> Request:
    """Return the request for a connection to a server."""
    target = f"{f'[{uri.host}]' if ':' in uri.host else uri.host}:{uri.port}"
    fields = [("Host", target)]
    if user_agent is not None:
        fields.append(("User-Agent", user_agent))
    if parts.username is not None:
        secret = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        fields.append(("Proxy-Authorization", secret))
    return Request("CONNECT", target, "1.1", Headers(fields))


def _refused(whom: str, target: str, response: Response, *, has_user: bool) -> ProxyError:
    """Return the error for a proxy's refusal, with advice."""
    status = f"{response.status} {response.reason}".rstrip()
    advice = _REFUSED_USER if response.status == 407 and has_user else _ADVICE.get(response.status, "")
    return ProxyError(f"{whom} does not connect us to {target}: it answered {status}{advice}", response)
