"""TLS records in a stream: where each of them ends, which needs no key (RFC 8446 §5.1).

OpenSSL handles TLS itself. Before it returns, it handles all records that it is given, however many carry no data. So
it is given only a few whole records at a time.
"""

from __future__ import annotations

# The content type, the version, and the length of what follows.
HEADER_BYTES = 5
# RFC 8446 §5.1: the plaintext of one record.
MAX_PLAINTEXT_BYTES = 16 * 1024
# RFC 5246 §6.2.3: the expansion that TLS 1.2 allows. TLS 1.3 adds at most 256 bytes.
MAX_CIPHERTEXT_BYTES = MAX_PLAINTEXT_BYTES + 2048
MAX_RECORD_BYTES = HEADER_BYTES + MAX_CIPHERTEXT_BYTES

# change_cipher_spec, alert, handshake, application_data, and heartbeat (RFC 6520).
TYPES = range(20, 25)
MAJOR_VERSION = 3


def find_records(data: bytes, start: int, max_bytes: int, max_records: int) -> tuple[int, int]:
    """Return the end and the number of the whole records that begin at ``start``; ``(start, 0)`` if there is none.

    They are at most ``max_records``, and ``max_bytes`` together unless the first alone is larger. Bytes that can't
    begin a record count as one with all that follows them: it is for OpenSSL to say what is wrong with them.
    """
    size = len(data)
    end = start
    records = 0
    while records < max_records and end + HEADER_BYTES <= size:
        length = data[end + 3] << 8 | data[end + 4]
        if length > MAX_CIPHERTEXT_BYTES or data[end] not in TYPES or data[end + 1] != MAJOR_VERSION:
            return size, records + 1
        after = end + HEADER_BYTES + length
        if after > size or (records and after - start > max_bytes):
            break
        end = after
        records += 1
    return end, records
