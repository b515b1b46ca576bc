"""Facts about a process and this machine from /proc: CPU seconds, memory, cores. Linux only."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def tree(pid: int) -> list[int]:
    """Return the process and its descendants: a server may run its work in children."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in task.read_text().split():
                pids += tree(int(child))
        except OSError:
            continue
    return pids


def cpu_seconds(pid: int) -> float:
    """Return the user and system time that the process tree has used so far, all its threads included."""
    ticks = 0
    for each in tree(pid):
        try:
            # The name of the command may hold spaces; the fields are counted from its closing parenthesis.
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_A_SECOND


def main_thread_seconds(pid: int) -> float:
    """Return the CPU time of this process's first thread, more precisely than in ticks."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def sleeps(pid: int) -> bool:
    """Return whether this process waits for anything but a core."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def busy_seconds(core: int) -> float:
    """Return how long this core was busy since the machine started, for any process."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(each) for each in fields[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS_A_SECOND
    return 0.0


def memory_bytes(pid: int) -> int:
    """Return the proportional set size of the process tree: pages shared by n processes count one n-th."""
    kib = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib * 1024


def resident_bytes(pid: int) -> int:
    """Return the memory of this process alone, including shared pages."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES


def descriptors(pid: int) -> list[str]:
    """Return what the open descriptors of this process are: files, sockets and the like, by kind."""
    kinds = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds.append(os.readlink(each).partition(":[")[0])
    return sorted(kinds)


@functools.cache
def cores() -> tuple[int, int]:
    """Return the core for the server and the one for the load; the same core twice if there is only one.

    The answer is remembered from before any pinning: the load's own pinning must not hide the other core.
    """
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def describe_machine() -> dict[str, object]:
    model = "unknown"
    memory_kib = 0
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            memory_kib = int(line.split()[1])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 2**20, 1),
        "kernel": platform.release(),
        "arch": platform.machine(),
        "python": platform.python_version(),
    }
