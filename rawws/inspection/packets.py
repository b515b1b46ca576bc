"""Both sides of a connection, as tcpdump, tshark, Wireshark, strace and curl print them.

Each class with a ``read`` is one of the forms in `rawws.inspection.spellings`. It returns a `Talk`: each piece of data
in its order, with its direction. From whole packets, the TCP payload is extracted and put in order.
"""

from __future__ import annotations

import base64
import binascii
import heapq
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from rawws.errors import UsageError
from rawws.inspection.file_kinds import begins_with_whole, is_request
from rawws.inspection.literals import read_elements, unescape

_TCPDUMP_LINE = re.compile(r"\s*0x([0-9a-f]{4,8}):\s\s((?:(?:[0-9a-f]{2}){1,2} ?)+)")
_TSHARK_LINE = re.compile(r"([0-9a-f]{4,8})\s{2,3}((?:[0-9a-f]{2} ?)+)(?=\s\s|\s*$)")
_FOLLOW_HEAD = re.compile(r"=+|Follow: |Filter: |Node [01]: ([^\n]*)")
_FOLLOW_HEX = re.compile(r"(\t| {4})?[0-9A-F]{8} {2}([0-9a-f ]{2,49})")
_FOLLOW_RAW = re.compile(r"(\t)?((?:[0-9a-f]{2})+)\s*")
_FOLLOW_YAML_SIDE = re.compile(r" +peer: ([01])|peer([01])_\d+: !!binary")
_FOLLOW_YAML_DATA = re.compile(r" +([A-Za-z0-9+/=]+)\s*")
# A brace ends it in any case, so that no part of the text is looked at twice.
_FOLLOW_ARRAY = re.compile(r"char peer([01])_\d{1,9}\[\] = (\{[^{}]*\})")
_CALL = re.compile(
    r"\b(?:(close)\((\d+)"
    r"|(read|pread64|readv|recv|recvfrom|recvmsg|write|pwrite64|writev|send|sendto|sendmsg)\((\d+), )"
)
_RESUMED = re.compile(r"<\.\.\. \w+ resumed>")
_UNFINISHED = "<unfinished ...>"
_CALL_STRING = re.compile(r""""((?:[^"\\]|\\.)*+)"(\.\.\.)?""")
_RESULT = re.compile(r"= (\d{1,18})(?!\d)")
_CURL_TITLE = re.compile(r"(?:[\d:.]+ )?(=>|<=) (?:Send|Recv) (header|data), \d+ bytes|(?:[\d:.]+ )?(?:=[=>]|<=) ")
_CURL_LINE = re.compile(r"[0-9a-f]{4,8}: ((?:[0-9a-f]{2} )+)")

_TCP = 6


@dataclass(slots=True)
class Flow:
    """One direction of a TCP connection: its sender, its receiver, and its data in order."""

    source: str
    destination: str
    data: bytearray = field(default_factory=bytearray)
    # Sequence numbers wrap at 2^32; these don't, so that they can be compared.
    _next: int | None = field(default=None, repr=False)
    _early: list[tuple[int, bytes]] = field(default_factory=list, repr=False)  # a heap

    @property
    def missing(self) -> bool:
        """Whether a part of the data is not in the capture."""
        return bool(self._early)

    def add(self, sequence: int, payload: bytes, *, opens: bool) -> bytes:
        """Add a segment, and return the bytes that are now in order; an early segment waits for those before it."""
        at = self._place(sequence)
        if opens:
            self._next = at + 1
        if payload:
            if self._next is None:
                self._next = at
            heapq.heappush(self._early, (at, payload))
        known = len(self.data)
        while self._early and self._next is not None and self._early[0][0] <= self._next:
            at, payload = heapq.heappop(self._early)
            new = payload[self._next - at :]
            self.data += new
            self._next += len(new)
        return bytes(memoryview(self.data)[known:])

    def _place(self, sequence: int) -> int:
        """Return a sequence number without the wrap, as the one nearest to the last (RFC 9293 §3.4)."""
        if self._next is None:
            return sequence
        ahead = (sequence - self._next) & 0xFFFFFFFF
        return self._next + (ahead if ahead < 1 << 31 else ahead - (1 << 32))


Talk = list[tuple[Flow, bytes]]


class _Conversation:
    """A `Talk` of two sides that are known by a name, not by addresses in packets."""

    def __init__(self, first: str = "the one side", second: str = "the other") -> None:
        self._flows = Flow(first, second), Flow(second, first)
        self.talk: Talk = []

    def say(self, is_second: object, data: bytes) -> None:
        if data:
            flow = self._flows[bool(is_second)]
            flow.data += data
            self.talk.append((flow, data))

    @property
    def is_both(self) -> bool:
        return all(flow.data for flow in self._flows)


@dataclass(frozen=True)
class Packets:
    """IP packets in hex, each with offsets from 0: tcpdump with -x, -X, -xx or -XX, tshark with -x."""

    line: re.Pattern[str]

    def read(self, text: str) -> Talk | None:
        """Return the data of each direction of each TCP connection; None if no packet has TCP in it.

        An empty piece at the end stands for each direction whose beginning is missing.
        """
        flows: dict[tuple[str, str], Flow] = {}
        talk: Talk = []
        for segment in filter(None, map(_segment, self._packets(text))):
            ends = segment.source, segment.destination
            flow = flows.setdefault(ends, Flow(*ends))
            if data := flow.add(segment.sequence, segment.payload, opens=segment.opens):
                talk.append((flow, data))
        if not flows:
            return None
        talk += [(flow, b"") for flow in flows.values() if flow.missing and not flow.data]
        if not talk:
            raise UsageError("there is no TCP payload in these packets; capture all of them, with tcpdump -X -s 0")
        return talk

    def _packets(self, text: str) -> list[bytes]:
        packets: list[bytearray] = []
        for line in text.splitlines():
            match = self.line.match(line)
            if match is None:
                continue
            if int(match[1], 16) == 0 or not packets:
                packets.append(bytearray())
            packets[-1] += bytes.fromhex(match[2].replace(" ", ""))
        return [bytes(packet) for packet in packets]


TCPDUMP = Packets(_TCPDUMP_LINE)
TSHARK = Packets(_TSHARK_LINE)


class _Segment(NamedTuple):
    source: str
    destination: str
    sequence: int
    opens: bool
    payload: bytes


@dataclass(frozen=True)
class _Link:
    """A link layer's header of ``size`` bytes; if IP follows, the bytes at ``type_at`` are one of ``types``."""

    size: int
    type_at: int
    types: tuple[bytes, ...]

    def packet(self, frame: bytes) -> bytes | None:
        is_ip = frame[self.type_at : self.size if self.size == 4 else self.type_at + 2] in self.types
        return frame[self.size :] if is_ip else None


_IP = (b"\x08\x00", b"\x86\xdd")
_LINKS = (
    _Link(0, 0, ()),
    _Link(14, 12, _IP),  # Ethernet
    _Link(18, 16, _IP),  # Ethernet with a VLAN tag (IEEE 802.1Q)
    _Link(16, 14, _IP),  # Linux's "any", LINKTYPE_LINUX_SLL
    _Link(20, 0, _IP),  # LINKTYPE_LINUX_SLL2
    # BSD's loopback, LINKTYPE_NULL: the address family, in the machine's byte order.
    _Link(4, 0, tuple(family.to_bytes(4, order) for family in (2, 24, 28, 30) for order in ("little", "big"))),
)


def _segment(frame: bytes) -> _Segment | None:
    """Return the TCP segment in a captured frame, with or without its link layer's header."""
    for link in _LINKS:
        packet = frame if not link.size else link.packet(frame)
        if packet is not None and (segment := _tcp_segment(packet)):
            return segment
    return None


def _tcp_segment(packet: bytes) -> _Segment | None:
    """Parse an IP packet and its TCP header (RFC 791, RFC 8200, RFC 9293); None if it has no TCP segment."""
    if len(packet) < 40:
        return None
    if packet[0] >> 4 == 4:
        header_bytes = (packet[0] & 15) * 4
        total = int.from_bytes(packet[2:4], "big")
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        hosts = [".".join(map(str, address)) for address in (source, destination)]
    elif packet[0] >> 4 == 6:
        header_bytes = 40
        total = 40 + int.from_bytes(packet[4:6], "big")
        protocol = packet[6]
        hosts = [f"[{address.hex(':', 2)}]" for address in (packet[8:24], packet[24:40])]
    else:
        return None
    segment = packet[header_bytes:total]
    if protocol != _TCP or len(segment) < 20:
        return None
    ports = [int.from_bytes(segment[at : at + 2], "big") for at in (0, 2)]
    payload_at = (segment[12] >> 4) * 4
    sequence = int.from_bytes(segment[4:8], "big")
    opens = bool(segment[13] & 2)
    names = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
    return _Segment(names[0], names[1], sequence, opens, segment[payload_at:])


class FollowHex:
    """Wireshark's "Follow TCP Stream" as a hex dump: the second side's lines are indented."""

    def read(self, text: str) -> Talk | None:
        matches = _follow_lines(text, _FOLLOW_HEX)
        if matches is None:
            return None
        conversation = _Conversation(*_names(text))
        for match in matches:
            try:
                conversation.say(match[1], bytes.fromhex(match[2]))
            except ValueError:
                return None
        return conversation.talk if conversation.is_both or text.lstrip().startswith("===") else None


class FollowRaw:
    """``tshark -z follow,tcp,raw``: hex, a line for each piece; the second side's lines are indented."""

    def read(self, text: str) -> Talk | None:
        matches = _follow_lines(text, _FOLLOW_RAW)
        if matches is None:
            return None
        conversation = _Conversation(*_names(text))
        for match in matches:
            conversation.say(match[1], bytes.fromhex(match[2]))
        return conversation.talk if conversation.is_both or text.lstrip().startswith("===") else None


def _follow_lines(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]] | None:
    """Return the lines with data; None if there are lines between them that aren't of the head."""
    matches = []
    for line in text.splitlines():
        if not line.strip() or _FOLLOW_HEAD.match(line):
            continue
        if not (match := pattern.match(line)):
            return None
        matches.append(match)
    return matches or None


def _names(text: str) -> list[str]:
    return [match[1] for line in text.splitlines()[:8] if (match := _FOLLOW_HEAD.match(line)) and match[1]][:2]


class FollowYaml:
    """Wireshark's followed stream as YAML: each piece in base64, after the number of its side."""

    def read(self, text: str) -> Talk | None:
        if "!!binary |" not in text:
            return None
        conversation = _Conversation()
        side, packed = "0", ""
        for line in [*text.splitlines(), "peer"]:
            if packed and not _FOLLOW_YAML_DATA.fullmatch(line):
                conversation.say(side == "1", _from_base64(packed))
                packed = ""
            if match := _FOLLOW_YAML_SIDE.match(line):
                side = match[1] or match[2]
            elif match := _FOLLOW_YAML_DATA.fullmatch(line):
                packed += match[1]
        return conversation.talk or None


def _from_base64(packed: str) -> bytes:
    try:
        return base64.b64decode(packed)
    except binascii.Error:
        raise UsageError("a piece of base64 in this stream that Wireshark has followed is cut off") from None


class FollowArrays:
    """Wireshark's followed stream as C arrays: ``char peer0_0[] = {``."""

    def read(self, text: str) -> Talk | None:
        conversation = _Conversation()
        for match in _FOLLOW_ARRAY.finditer(text):
            conversation.say(match[1] == "1", read_elements(match[2]) or b"")
        return conversation.talk or None


class Strace:
    """The reads and writes of a process as strace prints them, separately for each descriptor."""

    def read(self, text: str) -> Talk | None:
        """Return the data read and written on WebSockets, without that of files and other descriptors.

        Raises `UsageError` if strace has truncated the data, or no descriptor is a WebSocket's.
        """
        calls = list(_calls(text))
        if not calls:
            return None
        begun = _where_http_begins(calls) or _where_frames_begin(calls)
        ours = [call for at, call in enumerate(calls) if at >= begun.get(call.descriptor, len(calls))]
        if any(call.is_cut for call in ours or calls):
            raise UsageError("strace has truncated the data of these calls: run it with -s 1000000")
        if not ours:
            raise UsageError("these calls read and write no WebSocket's bytes: run strace with -f -s 1000000")
        conversations = {
            descriptor: _Conversation("the process", f"the peer at descriptor {descriptor}") for descriptor in begun
        }
        talk: Talk = []
        for call in ours:
            conversation = conversations[call.descriptor]
            conversation.say(call.is_read, call.data)
            talk.append(conversation.talk[-1])
        return talk


class _Call(NamedTuple):
    descriptor: str
    is_read: bool
    data: bytes
    is_cut: bool


def _calls(text: str) -> Iterator[_Call]:
    """Yield each call that has read or written data."""
    unfinished: dict[str, str] = {}  # by the text before a call, which names its thread
    uses: dict[str, int] = {}  # of a descriptor, which is reused after it was closed
    for given in text.splitlines():
        line = given
        if resumed := _RESUMED.search(line):
            line = line[resumed.end() :]
            if not line.endswith(_UNFINISHED):  # a call that is resumed ends then
                line = unfinished.pop(given[: resumed.start()], "") + line
        call = _CALL.search(line)
        if call is None:
            continue
        if line.endswith(_UNFINISHED):
            unfinished[line[: call.start()]] = line.removesuffix(_UNFINISHED)
            continue
        if call[1]:
            uses[call[2]] = uses.get(call[2], 1) + 1
            continue
        result = _RESULT.match(line, line.rfind("= "))
        size = 0 if result is None else int(result[1])
        said = list(_CALL_STRING.finditer(line, call.end()))
        data = b"".join(unescape(each[1]) for each in said) if size > 0 else b""
        if data:
            use = uses.get(call[4], 1)
            descriptor = call[4] if use == 1 else f"{call[4]}, opened {use} times"
            is_cut = size > len(data) and any(each[2] for each in said)
            yield _Call(descriptor, call[3].startswith(("read", "pread", "recv")), data[:size], is_cut)


def _where_http_begins(calls: list[_Call]) -> dict[str, int]:
    return _first_of_each(calls, lambda data: is_request(data) or data.startswith(b"HTTP/1."))


def _where_frames_begin(calls: list[_Call]) -> dict[str, int]:
    """Return where likely frames begin on each descriptor; a single descriptor is taken whole."""
    return _first_of_each(calls, begins_with_whole) or (
        {calls[0].descriptor: 0} if len({call.descriptor for call in calls}) == 1 else {}
    )


def _first_of_each(calls: list[_Call], is_ours: Callable[[bytes], bool]) -> dict[str, int]:
    found: dict[str, int] = {}
    for at, call in enumerate(calls):
        if call.descriptor not in found and is_ours(call.data):
            found[call.descriptor] = at
    return found


class CurlTrace:
    """``curl --trace -``: both directions as hex dumps, each piece with a title."""

    def read(self, text: str) -> Talk | None:
        if not _CURL_TITLE.match(text.lstrip()):
            return None
        conversation = _Conversation("curl", "the server")
        side: str | None = None
        for line in text.splitlines():
            if title := _CURL_TITLE.match(line):
                side = title[1]
            elif side and (match := _CURL_LINE.match(line)):
                # The characters begin after the sixteenth byte, or after the spaces in its place.
                conversation.say(side == "<=", bytes.fromhex(match[1][:48]))
        return conversation.talk or None
