"""A program's application, and the event loop in which it runs.

``spec`` has the types of ASGI. ``loop`` says what such a loop does: it calls the application, whose ``receive`` and
``send`` belong to the server. One that runs on trio shares the loop of the server.
"""
