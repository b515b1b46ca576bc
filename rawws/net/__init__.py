"""Sockets: all that names a socket option, TLS, the poller, listeners and addresses."""
