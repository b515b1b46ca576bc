"""One small server for each library, written as its users would write it.

Each is started as ``python -m benchmarks.peers.NAME --port P --mode echo|broadcast`` and may take
``--compression`` and ``--tls-cert F --tls-key F`` where the library can. In broadcast mode every message
goes to every client, its sender included, and text stays text. None of them sends keepalive pings: a run
is shorter than any default interval, and a timer per connection is not measured here.
"""
