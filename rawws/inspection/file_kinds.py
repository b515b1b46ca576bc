"""Kinds of files and texts that aren't bytes of a WebSocket, with advice for each; and whether bytes may be frames.

A kind is recognized by its first bytes, as in file(1). They are so many, or so odd, that no valid frame begins with
them.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from rawws.wire.frames import (
    LENGTH_IN_2_BYTES,
    MAX_CONTROL_PAYLOAD_BYTES,
    MAX_HEADER_BYTES,
    FrameHeader,
    Opcode,
    parse_header,
)

_LOOKED_AT_BYTES = 64 * 1024
# A terabyte is more than any program sends, and less than most lengths that are read from noise.
_ABSURD_BYTES = 1 << 40
_REQUEST = re.compile(rb"[A-Z]+ \S+ HTTP/1\.")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of input other than bytes of a WebSocket: its name, and ``advice``, in which FILE stands for the input."""

    name: str
    begins: re.Pattern[bytes]
    advice: str

    def sentence(self, name: str = "") -> str:
        """Return the sentence about it, with the name of its file if it has one."""
        advice = self.advice.replace("FILE", shlex.quote(name)) if name else self.advice
        return f"{name or 'this'} is {self.name}: {advice}"


def _kind(name: str, begins: str, advice: str, flags: int = 0) -> Kind:
    return Kind(name, re.compile(begins.encode("latin-1"), re.DOTALL | flags), advice)


_CAPTURE = (
    "tcpdump -r FILE -X | rawws decode explains each TCP connection in it, and tshark -r FILE -x | rawws decode too"
)
_NOT_OURS = "give the bytes of a WebSocket, as a file or in hex"
_TLS = (
    "frames in it are encrypted and can't be read; rawws tap 8081 wss://HOST shows them, with clients that connect to "
    "ws://localhost:8081"
)
_RECORD = (
    "rawws tap 8081 HOST:PORT --record RECORDING stands in between and keeps each frame, which rawws decode RECORDING "
    "explains"
)

_BINARY = (
    _kind(
        "a capture (pcap)",
        r"(?:\xd4\xc3\xb2\xa1|\xa1\xb2\xc3\xd4|\x4d\x3c\xb2\xa1|\xa1\xb2\x3c\x4d|\x34\xcd\xb2\xa1)",
        _CAPTURE,
    ),
    _kind("a capture (pcapng)", r"\x0a\x0d\x0d\x0a.{4}(?:\x1a\x2b\x3c\x4d|\x4d\x3c\x2b\x1a)", _CAPTURE),
    _kind("a capture (snoop)", r"snoop\0\0\0", "tshark -r FILE -x | rawws decode explains each TCP connection in it"),
    _kind("compressed with gzip", r"\x1f\x8b\x08", "decode its contents, with gzip -dc FILE | rawws decode"),
    _kind("compressed with zstd", r"\x28\xb5\x2f\xfd", "decode its contents, with zstd -dc FILE | rawws decode"),
    _kind("compressed with xz", r"\xfd7zXZ\0", "decode its contents, with xz -dc FILE | rawws decode"),
    _kind(
        "compressed with bzip2",
        r"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)",
        "decode its contents, with bzip2 -dc FILE | rawws decode",
    ),
    _kind("compressed with lz4", r"\x04\x22\x4d\x18", "decode its contents, with lz4 -dc FILE | rawws decode"),
    _kind("a zip archive", r"PK(?:\x03\x04|\x05\x06)", "decode the one file in it, with unzip -p FILE | rawws decode"),
    _kind("a 7z archive", r"7z\xbc\xaf\x27\x1c", "decode the one file in it, with 7z x -so FILE | rawws decode"),
    _kind("a tar archive", r".{257}ustar", "decode the one file in it, with tar -xOf FILE | rawws decode"),
    _kind("TLS", r"[\x14-\x17]\x03[\0-\x04][\0-\x41]", _TLS),
    _kind(
        "HTTP/2",
        r"PRI \* HTTP/2\.0\r\n|\0\0[\0-\x7f]\x04[\0\x01]\0\0\0\0",
        "its frames aren't those of RFC 6455, and are not read here",
    ),
    _kind("the PROXY protocol's header", r"\r\n\r\n\0\r\nQUIT\n", "what follows is the connection: cut the header off"),
    _kind("SSH", r"SSH-[12]\.", _NOT_OURS),
    _kind("a dump of Redis (RDB)", r"REDIS\d{4}", _NOT_OURS),
    _kind("an SQLite database", r"SQLite format 3\0", _NOT_OURS),
    _kind("a program (ELF)", r"\x7fELF", _NOT_OURS),
    _kind("a program (PE)", r"MZ.{58}.{2}\0\0", _NOT_OURS),
    _kind("a program (Mach-O)", r"[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe\0\0\0", _NOT_OURS),
    _kind("WebAssembly", r"\0asm\x01\0\0\0", _NOT_OURS),
    _kind("a picture (PNG)", r"\x89PNG\r\n\x1a\n", _NOT_OURS),
    _kind("a picture (JPEG)", r"\xff\xd8\xff", _NOT_OURS),
    _kind("a picture (GIF)", r"GIF8[79]a", _NOT_OURS),
    _kind("a picture (BMP)", r"BM.{4}\0{4}.{2}\0\0", _NOT_OURS),
    _kind("a picture (WebP), or a sound (WAV)", r"RIFF.{4}(?:WEBP|WAVE)", _NOT_OURS),
    _kind("a film (MP4)", r"\0\0\0.ftyp", _NOT_OURS),
    _kind("a sound (Ogg)", r"OggS\0", _NOT_OURS),
    _kind("a PDF", r"%PDF-\d", _NOT_OURS),
)
_JSON = r"\s*[\[{]\s*(?:[\[{]\s*)*[\"\]}]"
_TEXTS = (
    _kind("a HAR", r"\s*\{\s*\"log\"\s*:\s*\{", "it has a browser's messages, and no bytes; " + _RECORD),
    _kind("Chromium's net log", r"\s*\{\s*\"constants\"\s*:", "it has a browser's events, and no bytes; " + _RECORD),
    _kind("tshark's JSON", r"\s*\[\s*\{\s*\"_index\"", "tshark -r CAPTURE -x | rawws decode has the bytes"),
    _kind("JSON, and no recording of rawws", _JSON, _RECORD),
    _kind(
        "tcpdump's output without the bytes",
        r"(?:[^\n]*\n){0,5}(?:\d{4}-\d\d-\d\d )?[\d:.]{8,} (?:\S+ +(?:In|Out|[BMP]) +)?IP6? (?:\S+ > \S+: |\()",
        "tcpdump -X in place of -A prints them, and tcpdump -r CAPTURE -X | rawws decode explains them",
    ),
    _kind(
        "a stream that Wireshark has followed, without all of its bytes",
        r"\s*=+\s*\nFollow: ",
        "tshark -r CAPTURE -q -z follow,tcp,raw,0 | rawws decode has them, and so has Wireshark's own, shown as YAML",
    ),
    _kind(
        "tshark's output without the bytes",
        r"(?:Running as user[^\n]*\n)?(?:Frame \d+: \d+ bytes on wire|\s*\d+ +\d+\.\d+ +\S+ (?:\xe2\x86\x92|->) \S+ )",
        "tshark -r CAPTURE -x | rawws decode has them",
    ),
    _kind(
        "XML or HTML",
        r"\s*<(?:\?xml|!doctype|html)",
        "give the bytes in hex; of a capture, tshark -r CAPTURE -x | rawws decode has them",
        re.I,
    ),
    _kind(
        "the output of od -a, which shows seven bits of each byte",
        r"[0-7]{7}(?: [ !-~]{3}){0,15} (?:nul|soh|stx|etx|eot|enq|ack|bel|dle|dc\d|nak|syn|etb|can|esc|del)\b",
        "od -t x1 in its place shows all eight, and rawws decode reads that",
    ),
    _kind("PEM", r"-----BEGIN [A-Z ]+-----", _NOT_OURS),
    _kind(
        "curl -v's output, which has no bytes of frames",
        r"(?:\* [^\n]*\n)*(?:> [A-Z]+ \S+ HTTP/|\* +Trying |< HTTP/)",
        "curl --trace - in place of -v prints them, and rawws decode reads that",
    ),
    _kind(
        "a log of HTTP requests",
        r"[^\n]{0,300}\"[A-Z]{3,} [^\s\"]+ HTTP/\d(?:\.\d)?\" \d{3}",
        "it has no bytes; " + _RECORD,
    ),
    _kind(
        "rawws's own output",
        r"(?:[^\n]{0,400}\n){0,20}[^\n]{0,100}\b[A-Z]+ fin=[01] rsv=[01]{3} mask=",
        "with --record RECORDING, rawws serve and rawws tap keep the frames themselves, which rawws decode RECORDING "
        "explains",
    ),
    _kind(
        "text from which bytes are lost",
        r"(?:[^\xef]|\xef(?!\xbf\xbd)){0,2000}\xef\xbf\xbd",
        "each U+FFFD in it stands for bytes that were no text; give the bytes in hex",
    ),
)


def binary_kind(data: bytes) -> Kind | None:
    """Return the kind of bytes by their beginning; None if it is unknown."""
    return next((kind for kind in _BINARY if kind.begins.match(data)), None)


def text_kind(text: str) -> Kind | None:
    """Return the kind of a text that doesn't spell bytes, by its beginning; None if it is unknown."""
    data = text[:_LOOKED_AT_BYTES].encode("utf-8", "replace")
    return next((kind for kind in _TEXTS if kind.begins.match(data)), None)


def is_request(data: bytes) -> bool:
    """Say whether bytes begin with an HTTP/1 request line."""
    return _REQUEST.match(data) is not None


def begins_with_whole(data: bytes) -> bool:
    """Say whether bytes begin with an HTTP/1 head, or with a whole and valid frame."""
    if is_request(data) or data.startswith(b"HTTP/1."):
        return True
    header = parse_header(data[:MAX_HEADER_BYTES])
    if header is None or len(header.raw) + header.payload_bytes > len(data):
        return False
    return not _objections(header)


def why_no_frames(data: bytes) -> str:
    """Return why bytes are unlikely to be frames: the first one would be absurd. Empty for likely frames, even faulty
    ones.

    A single fault in a whole frame is probably the peer's; a fault in a frame whose payload is missing is probably
    noise.
    """
    header = parse_header(data[:MAX_HEADER_BYTES])
    if header is None:
        return ""
    faults = _objections(header)
    end = len(header.raw) + header.payload_bytes
    following = parse_header(data[end : end + MAX_HEADER_BYTES])
    is_noise = len(faults) > 1 or end > len(data) or (following is not None and bool(_objections(following)))
    if not faults or not (is_noise or are_swapped_words(data)):
        return ""
    objection = f"the first would have {' and '.join(faults)}"
    if end > len(data):
        there = len(data) - len(header.raw)
        objection += f", and {header.payload_bytes:,} bytes of payload, of which {there:,} are there"
    return objection


def are_swapped_words(data: bytes) -> bool:
    """Say whether bytes are whole frames once each pair is swapped, as it is in a dump of 16-bit words."""
    even = data[: len(data) // 2 * 2]
    swapped = bytearray(even)
    swapped[::2], swapped[1::2] = even[1::2], even[::2]
    at = 0
    while (header := parse_header(swapped, at)) is not None and not _objections(header):
        at += len(header.raw) + header.payload_bytes
    return at > 0 and at in (len(data), len(even), len(even) - 1)


def _objections(header: FrameHeader) -> list[str]:
    """Return the faults of a header that no handshake can allow (RFC 6455 §5.2, §5.5, RFC 7692)."""
    found = []
    if header.opcode not in set(Opcode):
        found.append(f"the reserved opcode {header.opcode:#x}")
    elif header.is_control and (not header.fin or header.payload_bytes > MAX_CONTROL_PAYLOAD_BYTES):
        found.append(f"a {header.opcode_name} that is {'in fragments' if not header.fin else 'too long'}")
    bits = [name for name, is_set in (("RSV2", header.rsv2), ("RSV3", header.rsv3)) if is_set]
    if bits:
        found.append(f"{' and '.join(bits)} set")
    length_bytes = len(header.raw) - 2 - (0 if header.mask_key is None else 4)
    if (length_bytes == 2 and header.payload_bytes < LENGTH_IN_2_BYTES) or (
        length_bytes == 8 and header.payload_bytes < 1 << 16
    ):
        found.append("a length that isn't in its shortest form")
    elif header.payload_bytes > _ABSURD_BYTES:
        found.append("an absurd length")
    return found
