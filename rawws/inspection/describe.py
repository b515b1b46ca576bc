"""Lines for a person about the parts of a connection that an `Observer` has seen."""

from __future__ import annotations

from rawws.inspection import dissect
from rawws.inspection.seen import Head, Seen, SeenFrame, Switch
from rawws.wire.role import Role
from rawws.wire.trace import DIRECTIONS, FAULT, STATE, frame_line, head_lines, message_line

_INDENT = "    "


def describe(seen: Seen, *, with_ruler: bool = True) -> list[str]:
    """Return a title line, followed by indented lines with the details."""
    match seen:
        case Head():
            return _describe_head(seen)
        case Switch():
            return [describe_switch(seen)]
        case SeenFrame():
            return _describe_frame(seen, with_ruler=with_ruler)
        case _:
            rest = [f"{_where(seen.sender, seen.at)}: {seen.reason}: {seen.raw.hex(' ')}"]
            if seen.fault is not None:
                rest.append(f"{_INDENT}{FAULT} {seen.fault.sentence}; the receiver fails with {seen.fault.close_code}")
            return rest


def describe_switch(switch: Switch) -> str:
    if switch.protocol:
        return f"HTTP ends, {switch.protocol} begins: what follows is not read"
    return "HTTP ends, WebSocket begins"


def _where(sender: Role, at: int) -> str:
    return f"{DIRECTIONS[sender]}, byte {at}"


def _describe_head(head: Head) -> list[str]:
    lines = [f"{_where(head.sender, head.at)}: HTTP {'request' if head.sender is Role.CLIENT else 'response'}"]
    lines += [_INDENT + text for text in head_lines(head.raw)]
    if head.problem:
        lines.append(f"{_INDENT}{FAULT} {head.problem}")
    lines += [f"{_INDENT}{STATE if check.holds else FAULT} {check}" for check in head.checks]
    if head.accept is not None and head.is_fine:
        lines += [f"{_INDENT}{STATE} {step}" for step in head.accept.steps]
    return lines


def _describe_frame(seen: SeenFrame, *, with_ruler: bool) -> list[str]:
    lines = [f"{_where(seen.sender, seen.at)}: {frame_line(seen.frame)}"]
    if with_ruler:
        lines += [_INDENT + row for row in dissect.lines(seen.frame)]
    if seen.message is not None and (line := message_line(seen.frame)):
        lines.append(f"{_INDENT}{STATE} {line}")
    if seen.fault is not None:
        lines.append(f"{_INDENT}{FAULT} {seen.fault.sentence}; the receiver fails with {seen.fault.close_code}")
    if seen.ignored:
        lines.append(f"{_INDENT}{STATE} not read by its receiver: the connection had ended (RFC 6455 §5.5.1, §7.1.7)")
    return lines
