"""Bytes as tools print them with the place of each line, and hex in all the forms in which people have it."""

from __future__ import annotations

import random
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import UsageError
from rawws.inspection import spellings
from tests.serving.machine import need

HELLO = bytes.fromhex("818537fa213d7f9f4d5158")


def read(text: str) -> bytes:
    found = spellings.read(text)
    assert isinstance(found, bytes)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "818537fa213d7f9f4d5158",
        "81 85 37 FA 21 3d 7f 9f 4d 51 58",
        "81:85:37:fa:21:3d:7f:9f:4d:51:58",
        "0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58",
        r"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
        "81 85 | 37 fa 21 3d | 7f 9f 4d 51 58",  # as our own log prints it
        "8185 37fa\n213d 7f9f\n\n4d51 58\n",
        "00000000: 8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX",
        "00000000  81 85 37 fa 21 3d 7f 9f  4d 51 58                 |..7.!=..MQX|\n0000000b",
        "0000000 81 85 37 fa 21 3d 7f 9f 4d 51 58\n0000013",
        "000000 81 85 37 fa 21 3d 7f 9f 4d 51 58                 >..7.!=..MQX<\n00000b",
        "\t0x0000:  8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX",
    ],
    ids=["plain", "spaced", "colons", "C", "escapes", "log", "lines", "xxd", "hexdump", "od", "od -A x", "tcpdump"],
)  # fmt: skip
def test_the_same_bytes_in_every_form(text: str) -> None:
    assert read(text) == HELLO


PRINTERS = (["xxd"], ["xxd", "-p"], ["xxd", "-c", "8"], ["hexdump", "-C", "-v"], ["od", "-v", "-t", "x1"],
            ["od", "-v", "-A", "x", "-t", "x1z"])  # fmt: skip


@pytest.mark.parametrize("printer", PRINTERS, ids=" ".join)
def test_the_tools_output_is_read_back(printer: list[str]) -> None:
    need(shutil.which(printer[0]), printer[0])  # the forms themselves are in the tests above
    chance = random.Random(6455)
    for size in (1, 2, 7, 8, 9, 15, 16, 17, 31, 200, 5000):
        # Much of it text, so that the characters' column is full of what could be hex.
        data = bytes(chance.choice(b"abcdef 0123456789|>.\x00\xff") for _ in range(size))
        printed = subprocess.run(printer, input=data, capture_output=True, check=True).stdout.decode()
        assert read(printed) == data, printed


@given(st.binary(min_size=1, max_size=100))
def test_hex_comes_back(data: bytes) -> None:
    assert read(data.hex()) == read(data.hex(" ")) == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("81 8", "line 1 has an odd number of digits"),
        ("81\n8g", "line 2 has 'g' in it"),
        ("00000000: 8185  ..\n*\n00000020: 8185  ..", "lines that repeat were left out of the dump"),
    ],
)
def test_characters_that_are_not_hex_are_named(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(text)


# A text "Hello" in a frame without a mask.
UNMASKED = b"\x81\x05Hello"


@pytest.mark.parametrize(
    "text",
    [
        "0000000 0581 6548 6c6c 006f                    \n0000007\n",
        "0000000    0581    6548    6c6c    006f\n0000007\n",
        "0000000   01409   25928   27756   00111\n0000007\n",
        "0000000  002601  062510  066154  000157\n0000007\n",
        "0000000 201 005 110 145 154 154 157\n0000007\n",
        "0000000 201 005   H   e   l   l   o                                    \n0000007\n",
        "0000000 65480581 006f6c6c\n0000007\n",
        "0000000 006f6c6c65480581\n0000007\n",
        "0000000 129   5  72 101 108 108 111\n0000007\n",
        " 201 005   H   e   l   l   o\n",
        " 201 005 110 145 154 154 157\n",
        " 129   5  72 101 108 108 111\n",
        "00000000: 65480581   6f6c6c                    ..Hello\n",
        "00000000: 81054865 6c6c6f                      ..Hello\n",
        "00000000: 10000001 00000101 01001000 01100101 01101100 01101100  ..Hell\n"
        "00000006: 01101111                                               o\n",
    ],
    ids=["hexdump", "hexdump -x", "hexdump -d", "hexdump -o", "od -b", "od -c", "od -tx4", "od -tx8", "od -tu1",
         "od -An -c", "od -An -b", "od -An -tu1", "xxd -e", "xxd -g4", "xxd -b"],
)  # fmt: skip
def test_numbers_octal_and_characters_are_the_same_bytes(text: str) -> None:
    assert read(text) == UNMASKED


@pytest.mark.parametrize(
    "text",
    [
        "0x7fffffffe6c0:\t0x81\t0x85\t0x37\t0xfa\t0x21\t0x3d\t0x7f\t0x9f\n0x7fffffffe6c8:\t0x4d\t0x51\t0x58\n",
        "(gdb) x/11xb buf\n0x555555558040 <buf>:\t0x81\t0x85\t0x37\t0xfa\t0x21\t0x3d\t0x7f\t0x9f\n"
        "0x555555558048 <buf+8>:\t0x4d\t0x51\t0x58\n(gdb) ",
        "0x7fffffffe6c0:\t129\t133\t55\t250\t33\t61\t127\t159\n0x7fffffffe6c8:\t77\t81\t88\n",
        "0x7fffffffe6c0:\t-127\t-123\t55\t-6\t33\t61\t127\t-97\n0x7fffffffe6c8:\t77\t81\t88\n",
        "0x7fffffffe6c0:\t-127 '\\201'\t-123 '\\205'\t55 '7'\t-6 '\\372'\t33 '!'\t61 '='\t127 '\\177'\t-97 '\\237'\n"
        "0x7fffffffe6c8:\t77 'M'\t81 'Q'\t88 'X'\n",
        "0x7fffffffe6c0:\t0201\t0205\t067\t0372\t041\t075\t0177\t0237\n0x7fffffffe6c8:\t0115\t0121\t0130\n",
        "0x7fffffffe6c0:\t10000001\t10000101\t00110111\t11111010\t00100001\t00111101\t01111111\t10011111\n"
        "0x7fffffffe6c8:\t01001101\t01010001\t01011000\n",
        '0x7fffffffe6c0:\t"\\201\\2057\\372!=\\177\\237MQX"\n',
        "0x7fffffffe6e0: 81 85 37 fa 21 3d 7f 9f 4d 51 58                 ..7.!=..MQX\n",
        "(lldb) memory read -s1 -fx -c11 $rsi\n0x7fffffffe6e0: 0x81 0x85 0x37 0xfa 0x21 0x3d 0x7f 0x9f\n"
        "0x7fffffffe6e8: 0x4d 0x51 0x58\n",
    ],
    ids=["x/xb", "x/xb of a name", "x/ub", "x/db", "x/cb", "x/ob", "x/tb", "x/s", "lldb", "lldb -fx"],
)
def test_the_address_of_a_debugger_is_no_part_of_the_bytes(text: str) -> None:
    assert read(text) == HELLO


def test_the_words_of_a_debugger_have_their_lowest_byte_first() -> None:
    assert read("0x7fffffffe6c0:\t0xfa378581\t0x9f7f3d21\n0x7fffffffe6c8:\t0x5158514d\n")[:8] == HELLO[:8]
    assert read("0x7fffffffe6c0:\t0x8581\t0xfa37\t0x3d21\t0x9f7f\n") == HELLO[:8]


@pytest.mark.parametrize(
    "printer",
    [
        *(["hexdump", "-v"], ["hexdump", "-v", "-x"], ["hexdump", "-v", "-b"], ["hexdump", "-v", "-d"]),
        *(["od", "-v"], ["od", "-v", "-b"], ["od", "-v", "-x"], ["od", "-v", "-t", "u1"], ["od", "-v", "-t", "d1"]),
        *(["od", "-v", "-A", "d", "-t", "x1"], ["xxd", "-b"], ["xxd", "-e"], ["xxd", "-c", "32"], ["xxd", "-i"]),
        *(["od", "-v", "-c"], ["xxd", "-o", "4660"], ["base64"]),
    ],
    ids=" ".join,
)
def test_other_formats_of_the_tools_come_back(printer: list[str]) -> None:
    need(shutil.which(printer[0]), printer[0])  # the forms themselves are in the tests above
    chance = random.Random(6455)
    for size in (5, 18, 47, 200):
        payload = bytes(chance.choice(b"abcdef 0123456789|>.\x00\xff") for _ in range(size - 3))
        data = bytes((0x82, min(size - 3, 125))) + payload + b"\xff"  # its last byte may be filled up with zeros
        printed = subprocess.run(printer, input=data, capture_output=True, check=True, env={"LC_ALL": "C"}).stdout
        assert read(printed.decode()) == data, printed.decode()


def test_a_number_that_is_too_large_for_its_cell_is_no_part_of_a_dump() -> None:
    assert read("0000000 129 255\n0000002\n") == b"\x81\xff"
    assert read("0000000 33153 65535\n0000004\n") == b"\x81\x81\xff\xff"
    assert read("0000000 -127 -128\n0000002\n") == b"\x81\x80"
    for text in (
        "0000000 129 256\n0000002\n",
        "0000000 -127 -129\n0000002\n",
        "0000000 33153 65536\n0000004\n",
    ):
        with pytest.raises(spellings.NoForm):
            spellings.read(text)


def test_a_part_of_a_dump_is_read_from_where_it_begins() -> None:
    assert read("00000e7: 8105 4865 6c6c 6f89 0081 0548 656c 6c6f  ..\n00000f7: 8900\n") == (UNMASKED + b"\x89\0") * 2


@pytest.mark.parametrize(
    "text",
    [
        "00000000: 8105 4865 6c6c 6f89 0081 0548 656c 6c6f  ..\n00000020: 8900\n",
        "0x7fffffffe6c0:\t0x81\t0x05\n0x7fffffffe6f0:\t0x81\t0x05\n",
    ],
    ids=["xxd", "gdb"],
)
def test_a_gap_in_a_dump_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"line 2 of the dump begins .* give one dump without a gap"):
        read(text)


def test_characters_that_look_like_hex_are_not_read_as_hex() -> None:
    assert read("00000000: 61 62 20 63 64 20 65 66  ab cd ef") == b"ab cd ef"
    assert read("00000000: 82042061 62636465  .. abcde") == b"\x82\x04 abcde"
    assert read("00000000: 61200482 65646362  .. abcde") == b"\x82\x04 abcde"
    assert read("00000000: 20204120 20202042     A    B\n") == b"  A    B"
    assert read("00000000: 20412020 42202020    A    B\n") == b"  A    B"


def test_two_dumps_are_not_taken_for_one() -> None:
    with pytest.raises(UsageError, match="another dump begins in line 2: give one of them"):
        read("00000000: 8105 4865\n00000000: 8105 4865\n")
    with pytest.raises(UsageError, match="another dump begins in line 2: give one of them"):
        read("0x7fffffffe650: 0x81 0x05 0x48\n0x555555558020: 0x81 0x05 0x48\n")


def test_the_line_of_the_command_may_be_there_too() -> None:
    assert read("me@here:~/x$ xxd w\n00000000: 8105 4865 6c6c 6f  ..Hello\nme@here:~/x$ ") == UNMASKED


def test_a_dump_of_numbers_that_are_hex_too_is_left_as_hex() -> None:
    assert read("818537fa 213d7f9f 4d5158") == HELLO
    assert read("818537fa 213d7f9f\n4d515881 00") == HELLO + b"\x81\0"
