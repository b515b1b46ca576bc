"""The number of examples that a property is tried on: few in the suite, many by ``--hypothesis-profile thorough``."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Properties that a busy machine can't fail.
settings.register_profile("rawws", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=25)
settings.register_profile("thorough", settings.get_profile("rawws"), max_examples=200)


def examples(usual: int) -> int:
    """Return a property's share of the examples in the profile, where it needs another number than 100.

    The profile is loaded before the test modules are.
    """
    return max(1, usual * settings().max_examples // 100)
