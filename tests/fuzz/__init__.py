"""Fuzzing of what reads a peer's bytes: each module is a harness, run as ``python -m tests.fuzz.session --seconds 30``.

A harness has a `check` that takes any bytes and fails for a bug, and `seeds` to begin from; tests/wire/test_fuzz.py
gives the same checks to hypothesis. The findings of a run are printed, and belong there as examples.
"""
