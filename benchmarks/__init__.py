"""The same load against rawws and the servers people would otherwise choose, side by side.

``python -m benchmarks`` runs it; ``--help`` lists the knobs. ``servers.py`` knows how to start each
server, ``cases.py`` says what is measured, ``load.py`` and its neighbours make the load.
"""
