"""A client: ``connect`` has `rawws.connect`, which opens a WebSocket.

``attempt`` is one connection as it is being opened, ``proxy`` leads through an HTTP proxy, ``reconnect`` tries again
after a failure, and ``resume`` goes on where a room was left.
"""
