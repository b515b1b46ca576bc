"""Groups: readers that share the messages of a room as jobs. Each message goes to one of them, until it is done.

* Sans-IO: ``group`` decides about the jobs of a group with a store, ``leases`` has these jobs and their workers, and
  ``protocol`` the queries of groups, the lines of their workers, and their texts.
* ``queue`` is a group as workers see it, wherever its leases live, and ``doors`` are their ways to it.
* With a store: ``runner`` gives the jobs of one group to its workers, and ``groups`` has all groups of a hub.
* In Redis: ``mirror`` is what a node knows of a group, sans-IO, ``shared_queue`` takes its turns, and ``shared`` has
  all groups of a hub. The leases are changed by a script (`rawws.backplane.turn_script`).
* Workers: ``websockets`` and ``over_http`` serve them, and ``work`` is one in a program.
"""
