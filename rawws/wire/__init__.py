"""The protocols, sans-IO: bytes in, events and bytes out.

Nothing here imports trio, sockets, ssl, select, threads or a clock (a test walks the imports), so each module
can be driven with literal bytes, in any chunking, and read beside the RFC that it follows.

===================  ==================================================================
``http1``            the HTTP phase, over h11 (RFC 9110, RFC 9112)
``handshake``        the opening handshake (RFC 6455 §4)
``frames``           frame headers: take apart, put together (RFC 6455 §5.2)
``session``          a connection after the handshake, over wsproto (RFC 6455 §5 to §7)
``broadcast_log``    what one room has published, and cursors into it
``trace``            how what crossed the wire becomes a line of text
===================  ==================================================================
"""
