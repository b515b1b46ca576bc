"""The two sides of a WebSocket (RFC 6455 §5.1)."""

from __future__ import annotations

import pytest
from wsproto.connection import ConnectionType

from rawws.wire.role import Role


@pytest.mark.parametrize(
    ("role", "other", "wsprotos"),
    [(Role.CLIENT, Role.SERVER, ConnectionType.CLIENT), (Role.SERVER, Role.CLIENT, ConnectionType.SERVER)],
    ids=["client", "server"],
)
def test_5_1_the_one_side_is_the_other_of_the_other(role: Role, other: Role, wsprotos: ConnectionType) -> None:
    assert role.other is other
    assert role.other.other is role
    assert role.value is wsprotos


@pytest.mark.parametrize(("role", "label"), [(Role.CLIENT, "client"), (Role.SERVER, "server")])
def test_a_role_s_label_is_its_word_in_a_sentence(role: Role, label: str) -> None:
    assert role.label == label
