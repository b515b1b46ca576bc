"""The modes of a store: how safe a commit is when it returns."""

from __future__ import annotations

from enum import Enum


class SyncMode(Enum):
    """How safe a message is when somebody is told of it. In each mode it has survived the end of the process.

    * `ALWAYS`: it is on the disk, by an fsync. It survives the end of the machine.
    * `INTERVAL`: an fsync follows, which the store's owner asks for (`Engine.sync`). The end of the machine loses what
      was committed since.
    * `NEVER`: it is left to the kernel when it reaches the disk. The end of the machine may lose what was committed
      since the last checkpoint. The store itself stays undamaged, since checkpoints are written in order.
    """

    ALWAYS = "always"
    INTERVAL = "interval"
    NEVER = "never"
