"""Rooms that the workers of one machine share, without a broker.

* Sans-IO: ``protocol`` has the messages between the sequencer and the workers, ``sequence`` the order of one room,
  ``outgoing`` what waits for a worker, and ``sequencer`` decides. Its docstring has the design. ``unconfirmed`` has
  what a worker has sent.
* In the first process: ``serving`` moves the sequencer's bytes.
* In a worker: ``local_rooms`` is the backplane, of which each room is a ``followed`` one, and ``sharing`` gives it to a
  hub.
* At both ends: ``link`` reads and writes.
"""
