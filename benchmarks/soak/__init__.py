"""The soak: everything at once, for any time, with every message accounted for.

Two nodes that share a Redis are used in every way there is, by clients that behave and by clients that don't, and Redis
is killed again and again. Each message names its writer and its number, so each reader notices at once a message that
is lost, doubled or out of order (`checker`). After all have left, a node must hold no more than it held before.
"""
