"""The same load against rawws and other servers, side by side.

``python -m benchmarks`` runs it; ``--help`` lists the knobs. ``servers.py`` starts each
server, ``cases.py`` defines the cases, ``load.py`` and its neighbours make the load.
"""
