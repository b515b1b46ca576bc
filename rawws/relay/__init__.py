"""The loop that serves every WebSocket peer, and its parts.

* The loop: ``loop`` takes the turns, and ``connections``, from which it derives, joins, closes and drops peers. These
  two alone read, close and talk to the poller (``ready_sockets``). ``stats`` counts what they do.
* Receiving: ``reading``. ``turnstile`` lets connections in their HTTP phase through between turns.
* Sending: ``sending`` broadcasts, ``writer`` owns all that waits for one peer (in a ``frame_queue``), and
  ``encoding_jobs`` encodes large messages in steps.
* State: ``peer`` is one connection. ``room_base`` is a room with its ``settings``, ``watchers`` and polls
  (``polling``), and ``room_state`` is the room whose members are peers.
* Slow peers: a policy in ``lag_policies`` decides, and ``slow_peers`` carries that out. A new policy goes into
  ``lag_policies``.
* Decisions for the loop: ``timers`` and ``memory`` return ``actions``, and ``presence`` returns notifications.
* Interfaces: ``peer_control`` is the loop for its parts, ``backplane`` is the store for a room.
* ``ends`` logs how a connection ended.
"""
