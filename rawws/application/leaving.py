"""The exceptions by which frameworks say that the client of an application has gone."""

from __future__ import annotations

from rawws.application.spec import ClientDisconnected

# Starlette makes exceptions of its own of ours, and of the messages; a name is all that we know of them here.
_OF_FRAMEWORKS = frozenset({"ClientDisconnect", "WebSocketDisconnect", "WebSocketDisconnected"})


def is_about_leaving(failure: BaseException) -> bool:
    """Say whether an application raised this because its client has gone, and for no other reason."""
    if isinstance(failure, BaseExceptionGroup):
        return all(map(is_about_leaving, failure.exceptions))
    return (
        isinstance(failure, ClientDisconnected)
        or isinstance(failure.__cause__, ClientDisconnected)
        or type(failure).__name__ in _OF_FRAMEWORKS
    )
