"""Runs a harness: with atheris, guided by coverage, where that is installed; else with mutations at random."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

Check = Callable[[bytes], None]

MAX_BYTES = 4096

# Bytes with a meaning to the readers: ends of lines, lengths at their limits, headers of frames.
TOKENS = (
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b";", b'"', b"=", b"\0", b"\x1b", b"\xff"),
    *(b"\xc3\x28", b"\xe2", b"HTTP/1.0", b"HTTP/1.1", b"Host: a\r\n", b"Content-Length: 5\r\n", b"0\r\n\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Expect: 100-continue\r\n"),
    *(b"permessage-deflate", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 999 x\r\n\r\n"),
    *(b"\x81\x00", b"\x01\x00", b"\x80\x00", b"\x88\x02\x03\xe8", b"\x89\x00", b"\xc1\x00", b"\x00\x80", b"\x03\x00"),
    *(b"\x82\x7e\xff\xff", b"\x82\x7f\0\0\0\0\0\x01\0\0", b"\x7f" + b"\xff" * 8, b"\x81\x80\0\0\0\0", b"\0\0\xff\xff"),
    *(b"null", b"Infinity", b"-1", b"1e999", b"[" * 50, b'{"', b"0x0000:  ", b"9" * 25),
)


class Options:
    """Options that an input's first bytes choose, so that one harness tries every way to read the rest."""

    def __init__(self, data: bytes, *, count: int) -> None:
        self._head = data[:count].ljust(count, b"\0")
        self.rest = data[count:]

    def flag(self, place: int, bit: int) -> bool:
        return bool(self._head[place] >> bit & 1)

    def number(self, place: int) -> int:
        return self._head[place]


def cut(data: bytes, how: int) -> list[bytes]:
    """Return data in chunks: whole for 0, byte by byte for 1, else of two sizes in turn. None is empty."""
    if how < 2:
        return [data] * bool(data) if not how else [data[at : at + 1] for at in range(len(data))]
    sizes = ((how & 15) + 1, (how >> 4) * 5 + 1)
    chunks: list[bytes] = []
    at = 0
    while at < len(data):
        size = sizes[len(chunks) % 2]
        chunks.append(data[at : at + size])
        at += size
    return chunks


def main(check: Check, seeds: Sequence[bytes], arguments: Sequence[str] | None = None) -> int:
    """Run a harness as the arguments say; the status is 1 when it has found something."""
    parser = argparse.ArgumentParser(description="Looks for bytes that a reader of them fails for.")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to try (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=0, help="of the random mutations (default: %(default)s)")
    parser.add_argument("--at-random", action="store_true", help="don't use atheris, even if it is there")
    parser.add_argument("--input", type=Path, help="check this file alone, such as one that atheris has left")
    options = parser.parse_args(arguments)
    if options.input is not None:
        check(options.input.read_bytes())
        print("nothing is wrong with it")
        return 0
    for seed in seeds:
        check(seed)
    atheris = None if options.at_random else _find_atheris()
    if atheris is not None:
        return _run_guided(atheris, check, seeds, options.seconds, options.seed)
    print(f"{'as asked' if options.at_random else 'atheris is not installed'}: mutations at random, without coverage")
    return _run_at_random(check, seeds, options.seconds, options.seed)


def _find_atheris() -> ModuleType | None:
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def _run_guided(atheris: ModuleType, check: Check, seeds: Sequence[bytes], seconds: float, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        for number, data in enumerate(seeds):
            (Path(folder) / f"seed-{number}").write_bytes(data)
        tokens = Path(folder + ".dict")
        escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
        tokens.write_text("".join(f'"{token}"\n' for token in escaped))
        atheris.instrument_all()
        flags = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={MAX_BYTES}", f"-dict={tokens}"]
        # libFuzzer ends the process, so that neither this function nor the `with` ever does.
        atheris.Setup([sys.argv[0], *flags, f"-seed={seed or 1}", folder], check)
        atheris.Fuzz()
    return 0


def _run_at_random(check: Check, seeds: Sequence[bytes], seconds: float, seed: int) -> int:
    choose = random.Random(seed)
    until = time.monotonic() + seconds
    tried = 0
    while time.monotonic() < until:
        data = mutate(choose.choice(seeds), seeds, choose)
        tried += 1
        try:
            check(data)
        except Exception:
            print(f"after {tried:,} inputs this one fails:\n{data!r}", file=sys.stderr)
            raise
    print(f"{tried:,} inputs, nothing found")
    return 0


def mutate(data: bytes, seeds: Sequence[bytes], choose: random.Random) -> bytes:
    """Return data with a few things changed: mostly one or two, so that most of it still means something."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        at = choose.randint(0, len(changed))
        end = min(len(changed), at + choose.choice((1, 1, 2, 4, 16, 64)))
        match choose.randrange(8):
            case 0 if at < len(changed):
                changed[at] ^= 1 << choose.randrange(8)
            case 1 if at < len(changed):
                changed[at] = choose.randrange(256)
            case 2:
                changed[at:at] = choose.choice(TOKENS)
            case 3:
                changed[at:end] = choose.choice(TOKENS)
            case 4:
                del changed[at:end]
            case 5:
                changed[at:at] = changed[at:end] * choose.choice((1, 1, 2, 20))
            case 6:
                other = choose.choice(seeds)
                changed[at:] = other[choose.randint(0, len(other)) :]
            case _ if changed:
                changed[choose.randrange(min(4, len(changed)))] = choose.randrange(256)  # an option
            case _:
                changed += choose.randbytes(8)
    return bytes(changed[:MAX_BYTES])
