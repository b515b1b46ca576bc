"""Rooms that are shared with other nodes, through Redis Streams.

The format of a stream's entries is in ``rawws.broadcast.stream_entries``, and the protocol between a room and its
backplane in ``rawws.relay.backplane``.
"""
