"""The pace of an upload whose reader holds something scarce, such as a thread. There is no I/O here."""

from __future__ import annotations

# The values of Apache's mod_reqtimeout by default ("body=20,MinRate=500").
PATIENCE_S = 20.0
LEAST_BYTES_PER_S = 500


class Pace:
    """How long one upload may still be waited for.

    The application waits for all pieces together `PATIENCE_S`, and a second more for each `LEAST_BYTES_PER_S` bytes
    that have arrived. The time that it takes itself between them doesn't count.
    """

    def __init__(self) -> None:
        self.left_s = PATIENCE_S

    def note(self, waited_s: float, arrived_bytes: int) -> None:
        """Record one wait, and what arrived at its end."""
        self.left_s += arrived_bytes / LEAST_BYTES_PER_S - waited_s
