"""A strict check of the framing of a chunked body (RFC 9112 §7.1).

h11 reads such a body, and its lines between the chunks more leniently than the RFC: a bare CR in an extension, white
space after a size, trailers that end with a bare LF. A proxy in front may read the same bytes in another way, and then
a request can be hidden from it (RFC 9112 §11.2). So these lines are checked here, too.
"""

from __future__ import annotations

import re

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~]|\\[\t -~])*"'
_EXTENSION = rb"[ \t]*;[ \t]*" + _TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*\r\n")
_TRAILER_LINE = re.compile(rb"[^ \t\r\n][^\r\n]*\r\n")
_END = b"\r\n"


class ChunkedFramingCheck:
    """Checks a chunked body from its first byte on, up to its end; bytes after the end are not checked."""

    __slots__ = ("_in_trailers", "_line", "_to_skip", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._in_trailers = False
        self._line = b""  # the part that has come of one
        self._to_skip = 0  # bytes of a chunk, and of the line end after it, which h11 checks

    def feed(self, data: bytes) -> bool:
        """Check the next bytes, and say whether all lines that have ended are legal."""
        position = 0
        while position < len(data) and not self.ended:
            if self._to_skip:
                skipped = min(self._to_skip, len(data) - position)
                self._to_skip -= skipped
                position += skipped
                continue
            line_end = data.find(b"\n", position) + 1
            self._line += data[position : line_end or len(data)]
            if not line_end:
                return True
            position = line_end
            if not self._take_line():
                return False
        return True

    def _take_line(self) -> bool:
        line, self._line = self._line, b""
        if self._in_trailers:
            self.ended = line == _END
            return self.ended or _TRAILER_LINE.fullmatch(line) is not None
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            return False
        size = int(match[1], 16)
        self._in_trailers = not size
        self._to_skip = size + len(_END) if size else 0
        return True
