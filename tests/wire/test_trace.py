"""How what crossed the wire looks in a log. A log line is an interface: each is compared whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.deflate import Deflater
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import (
    RSV1,
    Frame,
    Opcode,
    SeenMessage,
    encode_frame,
    parse_header,
    split_frames,
)
from rawws.wire.message_view import MessageView
from rawws.wire.role import Role
from rawws.wire.trace import (
    IN,
    MAX_NAME_CHARACTERS,
    MESSAGE_CHARACTERS,
    OUT,
    PREVIEW_BYTES,
    PREVIEW_CHARACTERS,
    escape,
    frame_hex,
    frame_line,
    head_lines,
    mark_of,
    mask_secrets,
    mask_subprotocols,
    mask_target,
    message_line,
    preview_message,
    preview_payload,
    printable,
    printable_lines,
    quote,
    shorten,
)
from tests.wire.helpers import MASK_KEY, every_split, record


def shown(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, mask_key: bytes | None = None) -> Frame:
    return record([encode_frame(opcode, payload, fin=fin, rsv=rsv, mask_key=mask_key)])


# A frame as a line


@pytest.mark.parametrize(
    ("raw", "line", "in_hex"),
    [
        (
            "81 85 37 fa 21 3d 7f 9f 4d 51 58",
            "TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'",
            "81 85 | 37 fa 21 3d | 7f 9f 4d 51 58",
        ),
        ("81 05 48 65 6c 6c 6f", "TEXT fin=1 rsv=000 mask=none len=5 'Hello'", "81 05 | 48 65 6c 6c 6f"),
        ("01 03 48 65 6c", "TEXT fin=0 rsv=000 mask=none len=3 'Hel'", "01 03 | 48 65 6c"),
        ("80 02 6c 6f", "CONTINUATION fin=1 rsv=000 mask=none len=2 6c 6f", "80 02 | 6c 6f"),
        ("82 03 00 ff 0a", "BINARY fin=1 rsv=000 mask=none len=3 00 ff 0a", "82 03 | 00 ff 0a"),
        ("89 00", "PING fin=1 rsv=000 mask=none len=0", "89 00"),
        ("8a 80 37 fa 21 3d", "PONG fin=1 rsv=000 mask=37fa213d len=0", "8a 80 | 37 fa 21 3d"),
        ("88 00", "CLOSE fin=1 rsv=000 mask=none len=0", "88 00"),
        ("88 01 03", "CLOSE fin=1 rsv=000 mask=none len=1 03", "88 01 | 03"),
        ("88 02 03 e8", "CLOSE fin=1 rsv=000 mask=none len=2 1000", "88 02 | 03 e8"),
        ("88 05 03 e9 62 79 65", "CLOSE fin=1 rsv=000 mask=none len=5 1001 'bye'", "88 05 | 03 e9 62 79 65"),
        ("c1 02 f2 00", "TEXT fin=1 rsv=100 mask=none len=2 f2 00", "c1 02 | f2 00"),
        ("b3 01 00", "RESERVED-0x3 fin=1 rsv=011 mask=none len=1 00", "b3 01 | 00"),
    ],
)
def test_a_frame_is_one_line_and_in_hex_the_bytes_on_the_wire(raw: str, line: str, in_hex: str) -> None:
    for chunks in every_split(bytes.fromhex(raw)):
        frame = record(chunks)
        assert (frame_line(frame), frame_hex(frame)) == (line, in_hex)


def test_no_payload_can_forge_a_line_or_move_the_cursor() -> None:
    frame = shown(Opcode.TEXT, "a\r\nb\x1b[2J\u2028\u202e ü 世".encode())
    assert preview_payload(frame) == r"'a\r\nb\x1b[2J\u2028\u202e ü 世'"
    assert preview_payload(shown(Opcode.CLOSE, b"\x03\xe8a\nb\xff")) == "1000 'a\\nb\ufffd'"


# The middle of what is long is left out


@pytest.mark.parametrize("size", [76, 125, 126, 189, 190, 70_000])
@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_long_text_is_cut_in_the_middle(size: int, mask_key: bytes | None) -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(size))
    frame = shown(Opcode.TEXT, text.encode(), mask_key=mask_key)
    assert preview_payload(frame) == f"'{text[:49]}…{text[-24:]}'"
    assert preview_payload(shown(Opcode.TEXT, b"x" * PREVIEW_CHARACTERS)) == f"'{'x' * PREVIEW_CHARACTERS}'"


@pytest.mark.parametrize("character", ["ü", "世", "🌍"])
@pytest.mark.parametrize("shift", range(4))
def test_a_cut_through_a_character_leaves_no_trace(character: str, shift: int) -> None:
    text = "-" * shift + character * 200 + "-" * shift
    preview = preview_payload(shown(Opcode.TEXT, text.encode()))
    head, tail = preview.strip("'").split("…")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert len(preview) <= PREVIEW_CHARACTERS + 2


def test_long_binary_is_cut_in_the_middle() -> None:
    payload = bytes(range(256))
    head, tail = payload[:16].hex(" "), payload[-8:].hex(" ")
    assert preview_payload(shown(Opcode.BINARY, payload)) == f"{head} … {tail}"
    assert preview_payload(shown(Opcode.BINARY, payload[:25])) == payload[:25].hex(" ")
    assert preview_payload(shown(Opcode.TEXT, payload[:26], rsv=RSV1)) == f"{head} … {payload[18:26].hex(' ')}"


@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_hex_keeps_the_ends_of_a_long_frame(mask_key: bytes | None) -> None:
    raw = encode_frame(Opcode.BINARY, bytes(i % 251 for i in range(1001)), mask_key=mask_key)
    frame = record([raw])
    header = parse_header(raw)
    assert header is not None
    start = len(header.raw)
    opening = "82 7e 03 e9" if mask_key is None else "82 fe 03 e9 | 37 fa 21 3d"
    assert frame.left_out_bytes == 1001 - 125 - 64
    assert frame_hex(frame) == (f"{opening} | {raw[start : start + 125].hex(' ')} … 812 bytes … {raw[-64:].hex(' ')}")


# The message that ends with a frame


def message_lines(frames: bytes) -> list[str]:
    """Return what is told of the message behind each frame, whose payload comes in two pieces."""
    view, lines = MessageView(deflates=True), []
    for header, payload in split_frames(frames):
        recorder = FrameRecorder(header, view=view)
        recorder.add(payload[:3])
        recorder.add(payload[3:])
        lines.append(message_line(recorder.frame()))
    return lines


@pytest.mark.parametrize("mask_key", [None, MASK_KEY], ids=["unmasked", "masked"])
def test_a_message_has_a_line_of_its_own_where_that_of_its_frame_does_not_show_it(mask_key: bytes | None) -> None:
    deflated = Deflater(15).deflate(b"Hello" * 3)
    frames = [
        encode_frame(Opcode.TEXT, b"Hello", mask_key=mask_key),
        encode_frame(Opcode.TEXT, deflated, rsv=RSV1, mask_key=mask_key),
        encode_frame(Opcode.BINARY, b"\x01\x02\x03\x04", fin=False, mask_key=mask_key),
        encode_frame(Opcode.PING, b"Hello", mask_key=mask_key),
        encode_frame(Opcode.CONTINUATION, b"\x05", mask_key=mask_key),
    ]
    assert message_lines(b"".join(frames)) == [
        "",
        "the message: TEXT, 15 bytes: 'HelloHelloHello'",
        "",
        "",
        "the message: BINARY, 5 bytes: 01 02 03 04 05",
    ]


def test_a_message_that_is_not_all_inflated_is_told_as_such() -> None:
    header = shown(Opcode.TEXT, b"\xf2\x00", rsv=RSV1).header
    cut = SeenMessage(Opcode.TEXT, 70_000, b"x" * 4096, is_all_known=False)
    assert message_line(Frame(header, b"\xf2\x00", b"", cut)) == (
        f"the message: TEXT, 70,000 bytes or more (no more is inflated): '{'x' * MESSAGE_CHARACTERS}…'"
    )
    lost = SeenMessage(Opcode.BINARY, 0, b"", is_all_known=False, is_lost=True)
    assert message_line(Frame(header, b"\xf2\x00", b"", lost)) == (
        "the message: BINARY, not shown: it refers to earlier ones that were not inflated"
    )


@pytest.mark.parametrize(
    ("message", "preview"),
    [
        (SeenMessage(Opcode.TEXT, 75, b"x" * 75), f"'{'x' * 75}'"),
        (SeenMessage(Opcode.TEXT, 76, b"x" * 76), f"'{'x' * 75}…'"),
        (SeenMessage(Opcode.TEXT, 3, b"a\xff\n"), "'a\ufffd\\n'"),
        (SeenMessage(Opcode.TEXT, 9, b"a\xc3\xbc\xc3"), "'aü…'"),  # its beginning ends within a character
        (SeenMessage(Opcode.BINARY, 0, b""), ""),
        (SeenMessage(Opcode.BINARY, PREVIEW_BYTES, bytes(32)), bytes(32).hex(" ")),
        (SeenMessage(Opcode.BINARY, PREVIEW_BYTES + 1, bytes(33)), bytes(32).hex(" ") + " …"),
        (SeenMessage(Opcode.BINARY, 2, b"\x01\x02", is_all_known=False), "01 02 …"),
    ],
)
def test_the_beginning_of_a_message_is_shown_as_text_or_as_hex(message: SeenMessage, preview: str) -> None:
    assert preview_message(message) == preview


def test_the_mark_of_bytes_says_whether_we_sent_them() -> None:
    for ours, theirs in [(Role.CLIENT, Role.SERVER), (Role.SERVER, Role.CLIENT)]:
        assert (mark_of(ours, ours), mark_of(theirs, ours)) == (OUT, IN) == (">", "<")


# The head of an HTTP message


def test_a_head_is_shown_line_by_line_with_its_secrets_masked() -> None:
    head = (
        b"GET /chat?room=1 HTTP/1.1\r\n"
        b"Host: example.org\r\n"
        b"Authorization: Basic dXNlcjpwYXNz\r\n"
        b"cookie:a=1; b=2\r\n"
        b"Proxy-Authorization : x\r\n"
        b"X-Cookie: shown\r\n"
        b"\r\n"
    )
    assert head_lines(head) == [
        "GET /chat?room=1 HTTP/1.1",
        "Host: example.org",
        "Authorization: (masked, 18 bytes)",
        "cookie: (masked, 8 bytes)",
        "Proxy-Authorization : (masked, 1 bytes)",
        "X-Cookie: shown",
    ]


def test_a_head_of_ours_is_shown_the_same_way() -> None:
    assert head_lines(b"HTTP/1.1 200 OK\r\nSet-Cookie: id=1") == ["HTTP/1.1 200 OK", "Set-Cookie: (masked, 4 bytes)"]


def test_a_secret_that_is_folded_over_more_lines_is_masked_on_all() -> None:
    head = b"GET / HTTP/1.1\r\nAuthorization: Basic\r\n dXNlcjpwYXNz\r\n\tcGFzcw==\r\nHost: a\r\n"
    shown = "\n".join(head_lines(head))
    assert "dXNlcjpwYXNz" not in shown
    assert "cGFzcw==" not in shown
    assert "Host: a" in shown


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"plain ~ text", "plain ~ text"),
        (b"a\tb\0c\x1b[31m\x7f", r"a\tb\x00c\x1b[31m\x7f"),
        (b"\x80\xff\xc3\xbc", r"\x80\xff\xc3\xbc"),
        (b"a\rb\nc", r"a\rb\nc"),
    ],
)
def test_all_but_plain_ascii_is_spelt_out(raw: bytes, text: str) -> None:
    assert escape(raw) == text


@given(st.binary(max_size=200))
def test_a_head_of_any_bytes_has_lines_of_plain_ascii(head: bytes) -> None:
    assert all(line.isascii() and line.isprintable() for line in head_lines(head))


@given(st.text(max_size=100))
def test_quoted_text_is_one_printable_line(text: str) -> None:
    assert quote(text).isprintable()


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ("/?token=abc", "/?token=(masked)"),
        ("/?token=(masked)", "/?token=(masked)"),
        ("/_rawws/?a=b&token=a-b_c.d~e&c=d", "/_rawws/?a=b&token=(masked)&c=d"),
        ("/?token=a&token=b#token=c", "/?token=(masked)&token=(masked)"),
        ("/#access_token=a&token_type=b", "/#access_token=(masked)&token_type=b"),
        ("/?a=b;token=c", "/?a=b;token=(masked)"),
        ("/?access%5Ftoken=abc", "/?access%5Ftoken=(masked)"),
        ("/?%41ccess_%74oken%3Dabc", "/?%41ccess_%74oken%3D(masked)"),
        ("/login?next=%2Fa%3faccess_token%3dabc&x=1", "/login?next=%2Fa%3faccess_token%3d(masked)&x=1"),
        ("/login?next=%252Fa%253Fb%253Dc%2526token%253Dabc", "/login?next=%252Fa%253Fb%253Dc%2526token%253D(masked)"),
        ("http://localhost/?token=a%20b", "http://localhost/?token=(masked)"),
        ("/?token=", "/?token="),
        ("/a?x=1&access_token=a.b.c&y=2", "/a?x=1&access_token=(masked)&y=2"),
        ("/?Access_Token=a.b-_c", "/?Access_Token=(masked)"),
        ("/?reaccess_token=abc", "/?reaccess_token=abc"),
        ("/token=abc?x=token=abc&tokens=abc", "/token=abc?x=token=abc&tokens=abc"),
    ],
)
def test_a_token_in_a_query_is_masked_wherever_a_head_has_it(target: str, shown: str) -> None:
    assert mask_target(target) == shown
    head = f"GET {target} HTTP/1.1\r\nReferer: http://localhost{target}\r\n\r\n"
    assert mask_secrets(head.encode()).decode() == head.replace(target, shown)


def test_a_token_among_the_subprotocols_is_masked() -> None:
    head = b"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: rawws.ids, rawws.token.eyJ.e30.c2ln,Rawws.Token.x\r\n\r\n"
    assert head_lines(head)[1] == ("Sec-WebSocket-Protocol: rawws.ids, rawws.token.(masked),Rawws.Token.(masked)")
    assert mask_secrets(mask_secrets(head)) == mask_secrets(head)
    assert mask_subprotocols("rawws.token.a, rawws.tokens") == "rawws.token.(masked), rawws.tokens"


@pytest.mark.parametrize("token", ["a SECRET", " SECRET", "a;SECRET", '"SECRET"', "a\tSECRET", "'SECRET"])
def test_a_malformed_token_among_the_subprotocols_is_masked_too(token: str) -> None:
    head = f"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: rawws.token.{token}, a\r\nHost: a\r\n\r\n"
    assert head_lines(head.encode())[1:] == ["Sec-WebSocket-Protocol: rawws.token.(masked), a", "Host: a"]


def test_a_secret_after_a_bare_cr_is_masked() -> None:
    assert mask_secrets(b"GET / HTTP/1.1\r\nX: 1\rCookie: SECRET\r\n\r\n") == (
        b"GET / HTTP/1.1\r\nX: 1\rCookie: (masked, 6 bytes)\r\n\r\n"
    )


def test_values_that_are_masked_already_stay_masked() -> None:
    head = b"GET / HTTP/1.1\r\nCookie: (masked, 17 bytes)\r\n\r\n"
    assert mask_secrets(head) == head


def test_a_peers_name_for_something_is_cut_at_the_longest_name() -> None:
    assert shorten("example.com") == "example.com"
    assert shorten("x" * (MAX_NAME_CHARACTERS + 7)) == "x" * MAX_NAME_CHARACTERS + "… (7 characters more)"


def test_no_text_ends_a_line_or_commands_a_terminal() -> None:
    assert printable("Grüße, 世界") == "Grüße, 世界"
    assert printable("a\nERROR\x1b[31m\u202e") == r"a\nERROR\x1b[31m\u202e"


def test_line_feeds_stay_and_other_invisible_characters_are_spelt_out() -> None:
    assert printable_lines("Grüße") == "Grüße"
    assert printable_lines("one\n\ttwo\r\nthree\x9b\n") == "one\n\\ttwo\\r\nthree\\x9b\n"
