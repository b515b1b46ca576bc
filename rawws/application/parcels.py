"""Parcels: they cross from an application's thread to the server's, in the order of what the application does.

An event that the application sends is a parcel as it is. The others are here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from rawws.application.spec import Message


@dataclass(frozen=True, slots=True)
class Asked:
    """The application waits for its next event."""


@dataclass(frozen=True, slots=True)
class Mark:
    """The application waits until everything before this is sent. The result is the error of that, or None."""

    sent: asyncio.Future[BaseException | None]


@dataclass(frozen=True, slots=True)
class Noticed:
    """The application was given an error of something that it had sent without waiting."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Ended:
    """The application has returned, or raised an error."""

    error: BaseException | None


Parcel = Message | Asked | Mark | Noticed | Ended
