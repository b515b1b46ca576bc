"""A server: `rawws.serve` and `rawws.attach`, and everything that speaks HTTP to clients.

* Starting: ``serve`` has the keywords, ``plan`` checks them, ``config`` keeps them, and ``server`` runs. ``attach`` is
  for connections that another server has accepted.
* A connection: ``admission`` counts it, ``connection`` is its HTTP phase, and ``http_phase`` takes it from request to
  request.
* WebSockets: ``upgrade`` leads to the 101, with ``handshake_options``, and ``routes`` finds the handler. ``claims``
  divides the paths between rooms and an application, whose WebSockets are in ``asgi_socket``.
* Other requests: ``exchange`` is one request and its response for an application (``apps``). ``plain_apps`` and
  ``metrics`` are applications, and the ``asgi`` modules call those of frameworks.
* Rooms over HTTP: ``room_app`` is the application, with ``room_readers`` for GET and ``room_posts`` for POST.
"""
