"""Bytes as people have them at hand: typed in hex, or printed by xxd, hexdump, od or tcpdump.

`read_hex` takes the hex out of any of these. `read_packets` goes on where tcpdump printed whole IP packets: it takes
the TCP payloads out, and puts each direction's in order.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, field

from rawws.errors import UsageError

_HEX_BYTES = re.compile(r"(?:[0-9a-fA-F]{2})+")
# Digits at the beginning of a line that say where in the dump it is: "0x0010:", "00000010:", "00000010  ", "0000010 ".
_OFFSET = re.compile(r"\s*(?:0x)?([0-9a-fA-F]{4,16})(?::|(?=\s\s)|$)|\s*([0-9a-fA-F]{6,8})(?=\s)")
_SEPARATORS = re.compile(r"[\s,;:|_-]+")
_C_PREFIX = re.compile(r"0x|\\x", re.IGNORECASE)
_TCPDUMP_LINE = re.compile(r"\s*0x([0-9a-f]{4}):\s\s((?:(?:[0-9a-f]{2}){1,2} ?)+)")

_TCP = 6


def read_hex(text: str) -> bytes:
    """Return the bytes that a text spells in hex, whatever stands around them.

    Each line may begin with its offset and end with the same bytes as characters. Raises `UsageError`, which names
    the line, for what is neither.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if line.strip() == "*":
            raise UsageError(f"line {number} is a *: lines that repeat were left out of the dump; make it with -v")
    with_offsets = all(_is_dump_line(line, known) for line, known in _with_lengths(lines))
    if with_offsets and (data := b"".join(map(_read_dump_line, lines))):
        return data
    return b"".join(_read_plain_line(line, number) for number, line in enumerate(lines, 1))


def _with_lengths(lines: list[str]) -> list[tuple[str, int]]:
    """Pair each line with the number of bytes before it, if every line is of a dump."""
    pairs = []
    known = 0
    for line in lines:
        pairs.append((line, known))
        known += len(_read_dump_line(line))
    return pairs


def _is_dump_line(line: str, known: int) -> bool:
    """Whether the line begins with the number of the bytes before it, in hex or, as od has it, in octal."""
    match = _OFFSET.match(line)
    if match is None:
        return False
    digits = match[1] or match[2]
    return int(digits, 16) == known or (set(digits) <= set("01234567") and int(digits, 8) == known)


def _read_dump_line(line: str) -> bytes:
    match = _OFFSET.match(line)
    rest = line[match.end() :] if match else line
    rest = rest.removeprefix(":")
    # The characters' column begins behind two spaces (xxd, tcpdump) or between bars (hexdump -C), which has a wider
    # gap of its own between the eighth byte and the ninth.
    data = b""
    byte_by_byte = True
    for piece in re.finditer(r"(\s*)(\S+)", rest.partition("|")[0]):
        gap = len(piece[1])
        if data and gap >= 2 and not (gap == 2 and len(data) == 8 and byte_by_byte and len(piece[2]) == 2):
            break
        if len(data) >= 16 or not _HEX_BYTES.fullmatch(piece[2]):
            break
        data += bytes.fromhex(piece[2])
        byte_by_byte = byte_by_byte and len(piece[2]) == 2
    return data


def _read_plain_line(line: str, number: int) -> bytes:
    digits = _SEPARATORS.sub("", _C_PREFIX.sub(" ", line))
    if not _HEX_BYTES.fullmatch(digits):
        odd = re.sub(r"[0-9a-fA-F]", "", digits)
        what = f"has {odd[0]!r} in it" if odd else "has an odd number of digits"
        raise UsageError(f"line {number} {what}, which is not bytes in hex: {line.strip()[:60]!r}")
    return bytes.fromhex(digits)


@dataclass(slots=True)
class Flow:
    """One direction of a TCP connection: who sends to whom, and what, in order."""

    source: str
    destination: str
    data: bytearray = field(default_factory=bytearray)
    # Sequence numbers begin again at 2^32; these go on, so that they can be put in order.
    _next: int | None = field(default=None, repr=False)
    _early: list[tuple[int, bytes]] = field(default_factory=list, repr=False)  # a heap

    @property
    def missing(self) -> bool:
        """Whether a part of it is not in the capture."""
        return bool(self._early)

    def add(self, sequence: int, payload: bytes, *, opens: bool) -> bytes:
        """Take in a segment, and return the bytes that it adds; what comes early waits for what is before it."""
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
        """Return a sequence number as the one that goes on from those before: the nearest (RFC 9293 §3.4)."""
        if self._next is None:
            return sequence
        ahead = (sequence - self._next) & 0xFFFFFFFF
        return self._next + (ahead if ahead < 1 << 31 else ahead - (1 << 32))


def is_tcpdump(text: str) -> bool:
    """Say whether a text is what tcpdump prints with -x or -X: IP packets, each from offset 0 on."""
    first = next((match for line in text.splitlines() if (match := _TCPDUMP_LINE.match(line))), None)
    if first is None or int(first[1], 16) != 0:
        return False
    version = first[2].lstrip()[:1]
    return (
        version in ("4", "6") and len(first[2].replace(" ", "")) >= 32 and _tcp_payload(_packets(text)[0]) is not None
    )


def read_packets(text: str) -> list[tuple[Flow, bytes]]:
    """Return what each direction of each TCP connection in tcpdump's output says, piece by piece as it came.

    At the end there is an empty piece for each that begins behind what is missing.
    """
    flows: dict[tuple[str, str], Flow] = {}
    pieces = []
    for packet in _packets(text):
        found = _tcp_payload(packet)
        if found is None:
            continue
        source, destination, sequence, opens, payload = found
        flow = flows.setdefault((source, destination), Flow(source, destination))
        if data := flow.add(sequence, payload, opens=opens):
            pieces.append((flow, data))
    return pieces + [(flow, b"") for flow in flows.values() if flow.missing and not flow.data]


def _packets(text: str) -> list[bytes]:
    packets: list[bytearray] = []
    for line in text.splitlines():
        match = _TCPDUMP_LINE.match(line)
        if match is None:
            continue
        if int(match[1], 16) == 0 or not packets:
            packets.append(bytearray())
        packets[-1] += bytes.fromhex(match[2].replace(" ", ""))
    return [bytes(packet) for packet in packets]


def _tcp_payload(packet: bytes) -> tuple[str, str, int, bool, bytes] | None:
    """Take an IP packet apart (RFC 791, RFC 8200, RFC 9293): source, destination, sequence number, SYN, payload."""
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
    return names[0], names[1], sequence, opens, segment[payload_at:]
