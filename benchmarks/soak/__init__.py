"""The soak: everything at once, for as long as one likes, and every message accounted for.

Two nodes that share a Redis are used in every way there is, by clients that behave and by clients that don't, and Redis
is killed again and again. Each message says who wrote it and which of theirs it is, so each reader knows at once what
is lost, doubled or out of order (`checker`). After all have left, a node must hold no more than it held before.
"""
