"""Rooms that survive a restart: a store for messages, and for the state of groups.

* Sans-IO: ``entries`` has what goes into a store and what comes out of it.
* Engines: ``engine`` is their protocol, with the errors that they raise.
"""
