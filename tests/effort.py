"""How much a test tries: examples of a property, and points of a sweep such as the bytes that are damaged.

A property has few examples in the suite, and many by ``--hypothesis-profile thorough``. A sweep over thousands of
points takes a share of them in a run, and another one in the next: .ci/run takes the number of the share from the
commit, as ``RAWWS_TURN``. So a commit always has the same points, and many commits together have all.
``RAWWS_TURN=all`` has a run try each point.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Properties that a busy machine can't fail.
settings.register_profile("rawws", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("thorough", settings.get_profile("rawws"), max_examples=100)

TRIES_ALL = os.environ.get("RAWWS_TURN") == "all"  # some tests take tens of minutes then


def examples(usual: int) -> int:
    """Return a property's share of the examples in the profile, where it needs another number than 100.

    The profile is loaded before the test modules are.
    """
    return max(1, usual * settings().max_examples // 100)


def steps(one_in: int) -> tuple[int, int]:
    """Return the first point of this run's share of a sweep, counted from 0, and the distance to each further one."""
    return (0, 1) if TRIES_ALL else (int(os.environ.get("RAWWS_TURN", "0")) % one_in, one_in)
