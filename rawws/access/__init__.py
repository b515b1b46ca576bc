"""Access: who may read and write which rooms, sans-IO.

A `Grant` says what a client may do, a `Source` gives it for a request, and `refuse` is the one decision that every door
asks. Nothing here knows about connections: the server asks, and acts on the answer.
"""
