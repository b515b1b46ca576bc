"""A server: `rawws.serve` and `rawws.attach`, a connection's HTTP phase, the Upgrade, and the HTTP applications."""
