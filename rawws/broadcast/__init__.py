"""A room's log and its encodings, sans-IO.

``log`` has the published messages, ``encodings`` makes of them the bytes that each kind of reader gets, and
``query`` reads the place at which a reader begins.
"""
