"""A program's application, and the event loop in which it runs.

``spec`` has the types of ASGI. ``loop`` says what such a loop does: it calls the application, whose ``receive`` and
``send`` belong to the server. ``choice`` finds the loop that an application needs.

One that runs on trio shares the loop of the server. Another one has a thread of its own (``asyncio_loop``). Each call
then has two halves, ``asyncio_side`` in that thread and ``server_side`` in the server's, and ``parcels`` go from the
first to the second. ``handover`` moves them, many at a time.
"""
