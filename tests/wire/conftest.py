"""For all tests of this folder: helpers that fail readably."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.wire.helpers")
