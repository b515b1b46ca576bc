"""Tests of the protocols. The helpers' assertions fail readably, in the tests of the other sans-IO folders too."""

import pytest

pytest.register_assert_rewrite("tests.wire.helpers")
