"""The work of ``rawws connect``, ``tap`` and ``check``: a client for people, a proxy, a tester."""
