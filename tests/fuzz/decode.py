"""A harness for what looks at bytes from outside, as ``rawws decode``, ``tap`` and ``check`` do: whatever they are."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace

from rawws.cli.decode import _explain
from rawws.errors import UsageError
from rawws.inspection import spellings
from rawws.inspection.describe import describe
from rawws.inspection.observer import Observer
from rawws.inspection.records import frame_bytes, frame_record, from_line, head_record, to_line
from rawws.inspection.seen import Rest, Seen, SeenFrame
from rawws.wire.deflate import Deflater
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import RSV1, Opcode, encode_frame, parse_header
from rawws.wire.role import Role
from rawws.wire.trace import frame_hex
from tests.fuzz.handshake import ANSWERS, REQUESTS
from tests.fuzz.runner import Options, cut, main

MASK_KEY = bytes.fromhex("37 fa 21 3d")


def check(data: bytes) -> None:
    """The first byte says what the rest is: a file, a capture of two directions, frames of one, or a record."""
    options = Options(data, count=2)
    sender = Role.SERVER if options.flag(0, 2) else Role.CLIENT
    match options.number(0) & 3:
        case 0:
            check_file(options.rest, sender if options.flag(0, 3) else None)
        case 1:
            check_connection(options.rest, options.number(1))
        case 2:
            check_frames(cut(options.rest, options.number(1)), sender)
        case _:
            check_text(options.rest.decode("utf-8", "surrogateescape"))


def check_file(data: bytes, sender: Role | None = None) -> list[str]:
    """The command describes a file, or says in one sentence why it can't."""
    lines = []
    try:
        for title, seen in _explain(spellings.as_text(data), sender):
            lines.append(title)
            if seen is not None:
                lines += described(seen)
    except UsageError as error:
        lines.append(str(error))
    assert lines
    return lines


def described(seen: Seen) -> list[str]:
    lines = describe(seen)
    assert lines
    for line in lines:
        assert line.replace("\t", " ").isprintable(), line  # a value may have a tab in it (RFC 9110 §5.5)
    assert describe(seen, with_ruler=False)
    if isinstance(seen, SeenFrame):
        assert frame_hex(seen.frame)
    return lines


def check_connection(data: bytes, how: int) -> None:
    """Two directions, in turns of any size: each is seen from its first byte on, and nothing twice."""
    observer = Observer(shown_bytes=how)
    seen = []
    given = dict.fromkeys(Role, 0)
    # 0xff 0xfe, which no text has, hands the word to the other side.
    for turn, part in enumerate(data.split(b"\xff\xfe")):
        sender = Role.SERVER if turn % 2 else Role.CLIENT
        for chunk in cut(part, how):
            given[sender] += len(chunk)
            seen += observer.receive(sender, chunk)
    seen += observer.finish()
    last = dict.fromkeys(Role, -1)
    for each in seen:
        described(each)
        if not isinstance(each, SeenFrame | Rest):
            continue
        assert last[each.sender] < each.at < given[each.sender], (each, given)
        last[each.sender] = each.at


def check_frames(chunks: list[bytes], sender: Role) -> None:
    """The same frames are seen, with the same faults, however they were cut; and each can be recorded."""
    whole = b"".join(chunks)
    in_chunks, at_once = watch(chunks, sender), watch([whole] if whole else [], sender)
    assert [(seen.at, seen.frame, seen.ignored) for seen in in_chunks] == [
        (seen.at, seen.frame, seen.ignored) for seen in at_once
    ]
    assert [seen.message for seen in in_chunks] == [seen.message for seen in at_once]
    assert sum(seen.fault is not None for seen in in_chunks) <= 1
    for seen in at_once:
        line = to_line(frame_record(sender, seen.frame), at=1.0, connection=1)
        record = from_line(line)
        assert (record.sender, record.frame) == (sender, replace(seen.frame, message=None))
        raw = frame_bytes(seen.frame)
        assert raw is None or raw == whole[seen.at : seen.at + len(raw)]


def watch(chunks: list[bytes], sender: Role) -> list[SeenFrame]:
    observer = Observer(in_frames=True)
    seen = [each for chunk in chunks for each in observer.receive(sender, chunk)]
    assert all(described(each) for each in [*seen, *observer.finish()])
    return [each for each in seen if isinstance(each, SeenFrame)]


def check_text(text: str) -> None:
    """Any text spells bytes, a record, or both sides of a connection; otherwise a `UsageError` gives the reason."""
    with contextlib.suppress(UsageError):
        from_line(text)
    with contextlib.suppress(UsageError):
        read = spellings.read(text)
        if isinstance(read, bytes):
            return
        for flow, data in read:
            assert bool(data) is bool(flow.data)
            assert data or flow.missing


def recorded() -> bytes:
    """Return a recording of a few lines."""
    hello = encode_frame(Opcode.TEXT, b"Hello", mask_key=MASK_KEY)
    header = parse_header(hello)
    assert header is not None
    recorder = FrameRecorder(header)
    recorder.add(hello[6:])
    records = [
        {"kind": "open", "from": "127.0.0.1:5000"},
        head_record(Role.CLIENT, REQUESTS[0]),
        {"kind": "switch"},
        frame_record(Role.CLIENT, recorder.frame()),
        {"kind": "end", "told": "closed"},
    ]
    return "".join(to_line(record, at=float(at), connection=1) for at, record in enumerate(records)).encode()


TCPDUMP = (
    b"12:00:00.000000 IP 127.0.0.1.5000 > 127.0.0.1.80: Flags [P.], length 7\n"
    b"\t0x0000:  4500 002f 0000 0000 4006 0000 7f00 0001  E../....@.......\n"
    b"\t0x0010:  7f00 0001 1388 0050 0000 0001 0000 0000  .......P........\n"
    b"\t0x0020:  5018 ffff 0000 0000 8105 4865 6c6c 6f    P.........Hello\n"
)
DUMPS = [
    b"81 85 37 fa 21 3d 7f 9f 4d 51 58",
    b"0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f\n\\x89\\x00",
    b"00000000: 8105 4865 6c6c 6f89 00                   ..Hello..\n",
    b"00000000  81 05 48 65 6c 6c 6f 89  00                       |..Hello..|\n00000009\n",
    b"0000000 81 05 48 65 6c 6c 6f 89\n0000010 00\n",
    b"0000000 0581 6548 6c6c 896f 0000\n0000009\n",
    b"0000000 201 005   H   e   l   l   o 211  \\0\n0000011\n",
    b"0x7ffe0 <buf+8>:\t0x81\t0x05\t0x48\t0x65\n0x7ffe4 <buf+12>:\t0x6c\t0x6c\t0x6f\n",
    b"unsigned char w[] = {\n  0x81, 0x05, 0x48 /* H */\n};\n",
    b"Uint8Array(7) [ 129, 5, 72, 101, 108, 108, 111 ]",
    b"b'\\x81\\x05Hello' \"\\201\\5\"",
    b"<Buffer 81 05 48 65 6c 6c 6f>",
    b"gQVIZWxsbw==",
    b'12 sendto(5, "\\201\\5Hello", 7, 0, NULL, 0) = 7\n12 recvfrom(5, "\\212\\0", 9, 0, NULL, NULL) = 2\n',
    b"=> Send data, 2 bytes (0x2)\n0000: 81 00  ..\n<= Recv data, 2 bytes (0x2)\n0000: 81 00  ..\n",
    b"00000000  81 05 48 65 6c 6c 6f                              ..Hello\n\t00000000  8a 00   ..\n",
    b"  - packet: 4\n    peer: 1\n    data: !!binary |\n      gQVIZWxsbw==\n",
    b"char peer0_0[] = { /* Packet 4 */\n0x81, 0x00 };\nchar peer1_0[] = {\n0x8a, 0x00 };\n",
    b"818500\n\t8a00\n",
    TCPDUMP,
    recorded(),
]
FRAMES = (
    encode_frame(Opcode.TEXT, b"Hello", mask_key=MASK_KEY)
    + encode_frame(Opcode.TEXT, Deflater(15).deflate(b"Hello" * 9), rsv=RSV1, mask_key=MASK_KEY)
    + encode_frame(Opcode.BINARY, bytes(200), fin=False, mask_key=MASK_KEY)
    + encode_frame(Opcode.CLOSE, b"\x03\xe8bye", mask_key=MASK_KEY)
    + b"\x81"
)
TALK = [
    REQUESTS[2] + b"\xff\xfe" + ANSWERS[2] + encode_frame(Opcode.TEXT, b"hi") + b"\xff\xfe" + FRAMES,
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\xff\xfeHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\xff\xfe" + REQUESTS[0],
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\xff\xfeHTTP/1.1 200 OK\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n\xff\xfeHTTP/1.1 200 OK\r\n\r\nx\xff\xfey",
]
seeds = [
    *(bytes((0, 0)) + data for data in (*DUMPS, *REQUESTS[:2], *ANSWERS[:3], FRAMES)),
    *(bytes((1, how)) + data for how in (0, 1, 0x35) for data in TALK),
    *(bytes((setup, how)) + FRAMES for setup, how in ((2, 0), (2, 1), (6, 0x21))),
    *(bytes((3, 0)) + data for data in (*DUMPS, recorded().splitlines()[3])),
]

if __name__ == "__main__":
    sys.exit(main(check, seeds))
