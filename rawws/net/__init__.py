"""Sockets: every module that names a socket option is here, and so is TLS.

* A connection: ``transport`` moves its bytes, ``tls_transport`` does so through TLS, and ``tls`` has trust settings and
  explanations of failures. ``connection_errors`` has the errors.
* Opening one: ``listeners`` and ``accept`` for servers, ``dial`` for clients.
* ``poller`` watches many sockets. ``addresses`` and ``client_address`` read and write addresses.
"""
