"""Bytes as programs in several languages spell and print them."""

from __future__ import annotations

import pytest

from rawws.errors import UsageError
from rawws.inspection import literals, spellings

# The text "Hello", masked, and a ping after it.
SAID = bytes.fromhex("818537fa213d7f9f4d5158890361 7c62")


@pytest.mark.parametrize(
    "text",
    [
        "unsigned char w_bin[] = {\n  0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f,\n"
        "  0x4d, 0x51, 0x58, 0x89, 0x03, 0x61, 0x7c, 0x62\n};\nunsigned int w_bin_len = 16;\n",
        "static const uint8_t x[16] = {0x81,0x85,0x37,0xfa,0x21,0x3d, // the header\n 0x7f,0x9f,0x4d,0x51,0x58,"
        "0x89,3,0x61,0x7c,0x62 /* and a ping */};",
        "[129, 133, 55, 250, 33, 61, 127, 159, 77, 81, 88, 137, 3, 97, 124, 98]",
        "bytes([129, 133, 55, 250, 33, 61, 127, 159, 77, 81, 88, 137, 3, 97, 124, 98])",
        "array('B', [129, 133, 55, 250, 33, 61, 127, 159, 77, 81, 88, 137, 3, 97, 124, 98])",
        "[]byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x89, 0x3, 0x61, 0x7c, 0x62}",
        "[129 133 55 250 33 61 127 159 77 81 88 137 3 97 124 98]",
        "let x = vec![0x81u8, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 137, 3, 97, 124, 98];",
        "{-127, -123, 55, -6, 33, 61, 127, -97, 77, 81, 88, -119, 3, 97, 124, 98}",
        "new byte[] {(byte) 0x81, (byte) 0x85, 55, (byte) 0xfa, 33, 61, 127, -97, 77, 81, 88, -119, 3, 97, 124, 98};",
        "Uint8Array(16) [\n  129, 133,  55, 250,  33,  61, 127, 159,  77,\n   81,  88, 137,   3,  97, 124,  98\n]",
        '{"type":"Buffer","data":[129,133,55,250,33,61,127,159,77,81,88,137,3,97,124,98]}',
        '{"0":129,"1":133,"2":55,"3":250,"4":33,"5":61,"6":127,"7":159,"8":77,"9":81,"10":88,"11":137,"12":3,"13":97,'
        '"14":124,"15":98}',
        "$2 = {0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x89, 0x3, 0x61, 0x7c, 0x62}",
        "0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x89, 0x3, 0x61, 0x7c, 0x62",
        "<Buffer 81 85 37 fa 21 3d 7f 9f 4d 51 58 89 03 61 7c 62>",
        "{\n  data: <Buffer 81 85 37 fa 21 3d 7f 9f 4d 51 58 89 03 61 7c 62>\n}",
        "ArrayBuffer {\n  [Uint8Contents]: <81 85 37 fa 21 3d 7f 9f 4d 51 58 89 03 61 7c 62>,\n  byteLength: 16\n}",
        r"b'\x81\x857\xfa!=\x7f\x9fMQX\x89\x03a|b'",
        r"bytearray(b'\x81\x857\xfa!=\x7f\x9fMQX\x89\x03a|b')",
        "(b'\\x81\\x857\\xfa!=\\x7f\\x9f'\n b'MQX\\x89\\x03a|b')",
        r'"\x81\x857\xFA!=\x7F\x9FMQX\x89\x03a|b"',
        r'$1 = "\201\2057\372!=\177\237MQX\211\003a|b"',
        r"$'\201\2057\372!=\177\237MQX\211\003a|b'",
        r"\x81\x857\xfa!=\x7f\x9fMQX\x89\x03a|b",
        '"\\x81\\x85\\x37\\xfa\\x21\\x3d\\x7f\\x9f" \\\n"\\x4d\\x51\\x58\\x89\\x03\\x61\\x7c\\x62"',
        "gYU3+iE9f59NUViJA2F8Yg==",
        "gYU3-iE9f59NUViJA2F8Yg",
        "gYU3+iE9f59N\nUViJA2F8Yg==\n",
        "data:application/octet-stream;base64,gYU3+iE9f59NUViJA2F8Yg==",
        'Buffer.from("gYU3+iE9f59NUViJA2F8Yg==", "base64")',
        "bytes.fromhex('818537fa213d7f9f4d5158890361 7c62')",
    ],
)
def test_the_same_bytes_in_every_language(text: str) -> None:
    assert spellings.read(text) == SAID


@pytest.mark.parametrize(
    "text",
    [
        "<Buffer 81 81 81 81 ... 30 more bytes>",
        "Uint8Array(300) [\n  0, 0, 0, 0,\n  ... 200 more items\n]",
        "$2 = {0x81, 0x5, 0x0 <repeats 41 times>}",
        "$2 = {0x81, 0x5, 0x6...}",
        r'$1 = "\201\005Hello", ' + r"'\000' <repeats 40 times>",
        r'$1 = "\201\005Hello"...',
    ],
)
def test_abbreviated_bytes_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="a part of these bytes was left out where they were printed: print all"):
        spellings.read(text)


def test_a_text_that_was_decoded_has_lost_its_bytes() -> None:
    with pytest.raises(UsageError, match="U\\+FFFD, which stands for bytes that are lost"):
        spellings.read(r'"\x81\ufffd"')
    with pytest.raises(UsageError, match="each U\\+FFFD in it stands for bytes that were no text"):
        spellings.read("\ufffd\ufffdHello")


def test_base64_that_spells_no_frame_says_how_to_have_it_read() -> None:
    with pytest.raises(UsageError, match=r"looks like base64, .*: base64 -d FILE \| rawws decode"):
        spellings.read("c29tZXRoaW5nIGVsc2U6IG5vIGZyYW1lcw==")


@pytest.mark.parametrize(
    "text",
    [
        "81 8",
        "gamedata",
        "[81 05 48]",
        "{0x8105, 0x4865}",
        "[129, " + "1" * 5000 + "]",
        '{"id":7,"scores":[10,20]}',
        "don't \\x",
        '"Hello"',
        "b'\\x81",
    ],
)
def test_an_ambiguous_text_is_not_guessed_at(text: str) -> None:
    with pytest.raises(UsageError):
        spellings.read(text)


@pytest.mark.parametrize("text", ['{"0":129,"2":5}', '{"1":5,"0":129}', '{"0":129,"1":256}', '{"0":129.5}'])
def test_an_object_whose_keys_do_not_count_bytes_is_no_typed_array(text: str) -> None:
    assert literals.IndexedNumbers().read(text) is None


def test_one_of_several_buffers_has_to_be_given() -> None:
    with pytest.raises(UsageError, match="there are 2 buffers in this text: give one of them"):
        spellings.read("[ <Buffer 81 05>, <Buffer 89 00> ]")


def test_an_empty_buffer_is_not_read() -> None:
    assert literals.NodeBuffer().read("<Buffer >") is None


def test_a_string_in_the_midst_of_prose_is_not_read() -> None:
    assert literals.StringLiteral().read(r'b"\x81\x00"') == b"\x81\0"
    assert literals.StringLiteral().read(r'It says b"\x81\x00" – is that right?') is None


def test_an_escaped_letter_is_its_control_character_and_any_other_is_itself() -> None:
    assert spellings.read(r'"\x81\x05\n\t\"\\é"') == b'\x81\x05\n\t"\\\xc3\xa9'


def test_an_escaped_end_of_line_is_no_byte() -> None:
    assert spellings.read('"\\x81\\x05He\\\nllo"') == b"\x81\x05Hello"
    assert literals.unescape("\\x81\\x05He\\\r\nllo") == b"\x81\x05Hello"


@pytest.mark.parametrize("text", ["g", "gQVIZ", "gQ=", "gQVI=", "gQ==gQ==", "===="])
def test_a_text_of_the_wrong_length_or_padding_is_no_base64(text: str) -> None:
    assert literals.Base64(lambda _: True).read(text) is None


def test_the_elements_of_an_array_may_be_one_byte() -> None:
    assert literals.read_elements("{ /* Packet 1 */\n0x81 }") == b"\x81"
    assert literals.read_elements("{ 0x81, 0x05 }") == b"\x81\x05"
    assert literals.read_elements("{ 0x181 }") is None
