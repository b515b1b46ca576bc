"""Rooms that are shared with other nodes, through Redis Streams.

``sharing`` has `rawws.share`. ``redis_streams`` is the backplane, of which ``publisher`` writes streams and ``reader``
follows them (``followed``, ``scripts``). ``connector`` connects to Redis, and ``troubles`` explains why Redis is
unusable.

``leases`` are those of groups (`rawws.groups`): ``turn_script`` decides about them, within Redis.

The format of a stream's entries is in `rawws.broadcast.stream_entries`, and the interface between a room and its
backplane in `rawws.relay.backplane`.
"""
