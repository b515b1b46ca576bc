"""Rooms as a program holds them.

``hub`` has the rooms of an application by path, ``room`` one room, and ``member`` one of its connections. ``paths``
says which paths are rooms, and ``doors`` which access each way into a room needs. ``reception`` puts connections into
rooms. ``registry`` finds and makes rooms, and ``shards`` has their backplanes. The state of a room is below, in
`rawws.relay.room_base`.
"""
