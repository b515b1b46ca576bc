"""A client: `rawws.connect`, proxies, reconnecting, and resuming a room."""
