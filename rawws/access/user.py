"""The user that a program's ``authenticate`` names, with the rooms that it may use."""

from __future__ import annotations

from collections.abc import Iterable

from rawws.access.grant import Grant
from rawws.access.patterns import Patterns
from rawws.errors import UsageError


class User(Grant):
    """A user, as ``authenticate`` may return one: its name, the rooms that it may read and write, and until when.

    ``read`` and ``write`` are patterns of rooms' paths, such as ``/room/*``; by default there are none. ``*`` within a
    segment matches any characters but ``/``; a last segment that is ``*`` alone matches everything below; ``"*"`` is
    every room. ``expires_at`` is the end in Unix seconds: then WebSockets are closed with 4401, and streams of events
    end. ``info`` is more about the user, up to 1 KiB as JSON.

    Raises `UsageError` for values that can't be used.
    """

    __slots__ = ()

    def __init__(
        self,
        name: str,
        *,
        read: Iterable[str] = (),
        write: Iterable[str] = (),
        expires_at: float | None = None,
        info: object = None,
    ) -> None:
        if name is None:
            raise UsageError("a user has a name; to refuse a client, return a Response")
        super().__init__(name, _patterns("read", read), _patterns("write", write), expires_at, info)

    def __repr__(self) -> str:
        return f"<User {self.user!r}>"

    @property
    def name(self) -> str:
        """The name, which `rawws.Hub.disconnect` takes."""
        assert self.user is not None
        return self.user


def _patterns(keyword: str, given: Iterable[str]) -> Patterns:
    try:
        return Patterns(given)
    except UsageError as error:
        raise UsageError(f"{keyword}: {error}") from None
