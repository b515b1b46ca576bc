"""The process around a server: signals, worker processes, systemd, and the allocator's settings.

``program`` puts them together. Each of ``signals``, ``workers``, ``systemd`` and ``malloc`` is about one of them.
"""
