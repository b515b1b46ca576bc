"""The files that flags name: read at the start, and those with secrets and rules anew at each SIGHUP."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

import trio

from rawws import logs
from rawws.access.shared_token import SharedToken, check_shared_token
from rawws.errors import UsageError, sentence_of
from rawws.limits import KIB
from rawws.wire.trace import FAULT, STATE

MAX_SECRET_BYTES = 4 * KIB

Content = TypeVar("Content")


class Reloadable(Protocol):
    """A file that can be read anew while its content is in use."""

    async def reload(self) -> None:
        """Read the file anew. If it can't be used, the earlier content stays in force, and the log says why."""


File = TypeVar("File", bound=Reloadable)


class RereadFile(Generic[Content]):
    """A file that a flag names. `reload` replaces its ``content`` as a whole, and calls ``use`` with the new one."""

    def __init__(self, flag: str, path: str, read: Callable[[bytes], Content], *, max_bytes: int) -> None:
        """``read`` makes the content of the file's bytes. It may raise `UsageError`, which must not repeat a secret.

        Raises `UsageError`, with the flag and the path, for a file that can't be used.
        """
        self.name = f"{flag} {path}"
        self.use: Callable[[Content], None] = lambda _: None
        self._path = path
        self._read = read
        self._max_bytes = max_bytes
        self.content = self._parse(self._load())

    async def reload(self) -> None:
        """Read the file anew, as `Reloadable` says. Cancelling loses nothing."""
        try:
            # Another thread waits for the disk. A disk that doesn't answer must not hold up the end of the program.
            data = await trio.to_thread.run_sync(partial(self._load, again=True), abandon_on_cancel=True)
            content = await self._parse_again(data)
        except UsageError as error:
            logs.server_line(logging.ERROR, FAULT, f"{error}; the file's earlier content stays in force")
            return
        self.content = content
        self.use(content)
        await self._report()

    async def _parse_again(self, data: bytes) -> Content:
        """Return the new content. A subclass does it in steps if it may take long."""
        return self._parse(data)

    async def _report(self) -> None:
        """Log that the file was read anew."""
        logs.server_line(logging.INFO, STATE, f"{self.name} is read anew, for requests from now on")

    def _load(self, *, again: bool = False) -> bytes:
        try:
            if again and stat.S_ISFIFO(os.stat(self._path).st_mode):  # opening it would wait for another writer
                raise UsageError(f"{self.name} is a pipe, which can be read only once; give a file")
            with open(self._path, "rb") as file:
                data = file.read(self._max_bytes + 1)
        except OSError as error:
            raise UsageError(f"{self.name} can't be read: {sentence_of(error)}") from None
        if len(data) > self._max_bytes:
            raise UsageError(f"{self.name} has over {self._max_bytes} bytes")
        return data

    def _parse(self, data: bytes) -> Content:
        try:
            return self._read(data)
        except UsageError as error:
            raise self._named(error) from None

    def _named(self, error: UsageError) -> UsageError:
        return UsageError(f"{self.name}: {error}")


class TokenFile(RereadFile[str]):
    """A file that holds a token alone. Its ``token`` is always the one that was read last."""

    def __init__(self, flag: str, path: str, check: Callable[[str], str] = check_shared_token) -> None:
        """``check`` returns a token that can be used, and raises `UsageError` for others, without repeating them.

        Raises `UsageError`, which doesn't repeat the token.
        """
        super().__init__(flag, path, lambda data: check(_read_token(data)), max_bytes=MAX_SECRET_BYTES)
        self.token = SharedToken(self.content)
        self.use = self.token.replace


class RereadFiles:
    """The files of a program that are read anew at each SIGHUP, in the order in which they were added."""

    def __init__(self) -> None:
        self._files: list[Reloadable] = []

    def __len__(self) -> int:
        return len(self._files)

    def add(self, file: File) -> File:
        """Read a file anew from now on, and return it."""
        self._files.append(file)
        return file

    def token(self, flag: str, path: str, check: Callable[[str], str] = check_shared_token) -> SharedToken:
        """Return the token in the file that a flag names. It is replaced whenever the file is read anew.

        ``check`` is that of `TokenFile`. Raises `UsageError`, which doesn't repeat the token.
        """
        return self.add(TokenFile(flag, path, check)).token

    async def reload(self) -> None:
        """Read all files anew, one after the other."""
        for file in self._files:
            await file.reload()


def _read_token(data: bytes) -> str:
    token = decode(data).strip()
    if not token or len(token.split()) > 1:
        fault = "holds several words" if token else "is empty"
        raise UsageError(f"the file {fault}, and it is for a token alone")
    return token


def decode(data: bytes) -> str:
    """Return the text of a file. Raises `UsageError`."""
    try:
        return data.decode("utf-8-sig")  # some editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError:
        raise UsageError("the file is not a text in UTF-8") from None
