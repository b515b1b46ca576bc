"""Rooms that survive a restart: a store for messages, and for the state of groups.

* Sans-IO: ``entries`` has what goes into a store and what comes out of it, ``checksums``, ``retention`` (the records
  that may be forgotten), ``losses`` (the numbers that are missing), and the names of the ``modes``.
* Engines: ``engine`` is their protocol, with the errors that they raise. ``memory_engine`` is the model.
* SQLite: ``sqlite_engine`` is the engine, above ``sqlite_opening``, ``sqlite_write`` and ``sqlite_read``, which share
  ``sqlite_rows`` and ``sqlite_schema``. ``store_lock`` is the file beside a store, and ``looking`` a look into it.
* In the loop: ``opening`` opens the store of a hub. ``committer`` commits the entries that are ``waiting``, in a
  ``writer_thread``. ``stored_rooms`` has the rooms over it, each a ``loaded_room`` while somebody uses it.
"""
