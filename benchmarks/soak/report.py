"""The result of a soak as a table, and whether it is good."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from benchmarks.soak.checker import MOST_TOLD
from benchmarks.soak.run import MIB, Comparison, Soak

# Python and glibc keep every page that is partly in use, and their number is a matter of luck: it varied by 2 to 6 MiB
# while the memory in use was the same to 0.2 MiB. A leak of one KiB per connection would be 9 MiB in ten minutes.
MEMORY_TOLERANCE_BYTES = 8 * MIB


def show(soak: Soak, compared: list[Comparison]) -> int:
    """Print the report, and return the exit status."""
    tally = soak.tally
    for fault in left_over(compared, is_short=soak.is_short):
        tally.faults.add("left over", fault)
    had, has = soak.held
    if has > had:
        tally.faults.add("left over", f"there were {had} {soak.label}, and there are {has}")
    print()
    for way, count in tally.written.items():
        print(f"{f'messages written by {way}':<52}{count:>12,}")
    for way, count in sorted(tally.taken.items()):
        print(f"{f'deliveries checked, {way}':<52}{count:>12,}")
    for what, count in sorted(tally.done.items()):
        print(f"{what:<52}{count:>12,}")
    print(f"\n{'with nobody there':<28}{'after warm-up':>18}{'at the end':>18}")
    for each in compared:
        before, after, name = each.before, each.after, f"node {each.node.name}"
        memory = before.memory_bytes / MIB, after.memory_bytes / MIB
        print(f"{f'{name}: memory, MiB':<28}{memory[0]:>18.1f}{memory[1]:>18.1f}")
        print(f"{f'{name}: descriptors':<28}{len(before.descriptors):>18}{len(after.descriptors):>18}")
        print(f"{f'{name}: tasks':<28}{before.tasks:>18}{after.tasks:>18}")
    print(f"{soak.label:<28}{had:>18}{has:>18}")
    print()
    if not tally.faults:
        print("nothing lost, nothing twice, nothing out of order; nothing left over")
        return 0
    for message in tally.faults.messages:
        print(message)
    if tally.faults.counts.total() > MOST_TOLD:
        print("...")
    print("faults: " + ", ".join(f"{kind} {count:,}" for kind, count in tally.faults.counts.most_common()))
    return 1


def left_over(compared: list[Comparison], *, is_short: bool) -> Iterator[str]:
    """Report how the resources of a node at the end differ from those after the warm-up.

    In a short run, memory does not count, only new descriptors and tasks: too much is still under way.
    """
    for each in compared:
        before, after, who = each.before, each.after, f"node {each.node.name}"
        more, fewer = Counter(after.descriptors), Counter(before.descriptors)
        if more - fewer or (more != fewer and not is_short):
            had, has = len(before.descriptors), len(after.descriptors)
            yield f"{who} had {had} descriptors, and has {has}: new {dict(more - fewer)}, gone {dict(fewer - more)}"
        if after.tasks > before.tasks or (after.tasks != before.tasks and not is_short):
            yield f"{who} had {before.tasks} tasks, and has {after.tasks}"
        growth = after.memory_bytes - before.memory_bytes
        if growth > MEMORY_TOLERANCE_BYTES and not is_short:
            yield f"{who} has grown by {growth / MIB:.1f} MiB"
