"""Several workers share the payments of ``payments`` as jobs: one of them sends the SMS for each; none is forgotten.

    python -m rawws.examples.payments server --store payments.db
    python -m rawws.examples.sms_workers
    python -m rawws.examples.sms_workers

Kill any of the three, and start it again: each payment gets its SMS, by one worker. A worker that is killed between an
SMS and the end of its job leaves a payment whose SMS another worker sends again.
"""

from __future__ import annotations

import json

import rawws
from rawws.examples.common import arguments, run_until_signal


async def work(port: int) -> None:
    """Send an SMS for each payment that this worker is given; the end of the block acknowledges it."""
    async for job in rawws.work(f"ws://localhost:{port}/payments", group="sms"):
        async with job, rawws.connect(f"ws://localhost:{port}/receipts") as receipts:
            print(f"SMS: {json.loads(job.data)['paid']!r}", flush=True)  # quoted: it may contain escape codes
            await receipts.send(job.id)


def main() -> None:
    run_until_signal(work, arguments(__doc__).parse_args().port)


if __name__ == "__main__":
    main()
