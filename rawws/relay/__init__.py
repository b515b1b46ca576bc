"""The loop that serves every WebSocket peer, and its parts.

``loop`` alone reads, writes, closes and talks to the poller. The parts hold state (``peer``, ``room_state``) or
return what is to be done (``timers``, ``memory``, ``presence``, ``lag_policies``).
"""
