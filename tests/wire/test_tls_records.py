"""Where TLS records end."""

from __future__ import annotations

import pytest

from rawws.wire.tls_records import HEADER_BYTES, MAX_CIPHERTEXT_BYTES, MAX_RECORD_BYTES, find_records

MANY = 1 << 20


def record(size: int, kind: int = 23) -> bytes:
    return bytes([kind, 3, 3]) + size.to_bytes(2, "big") + bytes(size)


def test_records_are_counted_up_to_what_is_whole() -> None:
    data = record(10) + record(0) + record(300)
    assert find_records(data, 0, MANY, MANY) == (len(data), 3)
    for size in range(len(data)):
        ends = [0, 15, 20, 325]
        whole = max(end for end in ends if end <= size)
        assert find_records(data[:size], 0, MANY, MANY) == (whole, ends.index(whole))
    assert find_records(b"before" + data, 6, MANY, MANY) == (6 + len(data), 3)


def test_as_many_are_found_as_are_asked_for() -> None:
    data = record(10) * 5
    assert find_records(data, 0, MANY, 2) == (30, 2)
    assert find_records(data, 30, MANY, 2) == (60, 2)
    assert find_records(data, 0, 44, MANY) == (30, 2)
    assert find_records(data, 0, 45, MANY) == (45, 3)
    assert find_records(data, 15, 30, MANY) == (45, 2)


def test_the_first_is_found_however_large_it_is() -> None:
    assert find_records(record(300) + record(10), 0, 0, MANY) == (305, 1)
    largest = record(MAX_CIPHERTEXT_BYTES)
    assert len(largest) == MAX_RECORD_BYTES
    assert find_records(largest, 0, 0, MANY) == (MAX_RECORD_BYTES, 1)
    assert find_records(largest[:-1], 0, 0, MANY) == (0, 0)


@pytest.mark.parametrize(
    "strange",
    [b"GET / HTTP/1.1", record(10, kind=19), record(10, kind=25), b"\x17\x02\x00\0\0", b"\x17\x03\x03\xff\xff"],
    ids=["HTTP", "type 19", "type 25", "SSL 2", "too long"],
)
def test_bytes_that_are_no_record_are_left_to_openssl_with_all_after_them(strange: bytes) -> None:
    behind = strange + record(10)
    assert find_records(behind, 0, 0, MANY) == (len(behind), 1)
    assert find_records(record(10) + behind, 0, MANY, MANY) == (15 + len(behind), 2)
    assert find_records(record(10) + behind, 0, MANY, 1) == (15, 1)
    assert find_records(strange[: HEADER_BYTES - 1], 0, MANY, MANY) == (0, 0)
