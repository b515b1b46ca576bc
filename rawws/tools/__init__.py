"""The work of ``rawws connect``, ``tap`` and ``check``, without their arguments, which `rawws.cli` reads.

``terminal`` is the conversation of ``connect``, with ``console`` for the user's side and ``typed_commands``. ``tap`` is
a proxy that shows what passes, and ``checker`` tests a server.
"""
