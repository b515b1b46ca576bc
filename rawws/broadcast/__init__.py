"""The messages that a room has published, and their encodings, sans-IO.

* The messages: ``log`` has them, in ``segments``. ``message_ids`` names them.
* The bytes for readers: ``encodings`` for WebSockets, and ``stream_encodings`` for responses that never end
  (``response_stream``). ``encoded_segments`` keeps what has been encoded. ``polled`` and ``json_messages`` are for
  polls.
* A reader's start: ``query`` reads it from the URL, and ``start_position`` finds it in the log.
* A selection of the messages: ``latest_by_key`` for slow readers, ``sender_runs`` for rooms that exclude the sender.
* Publishing: ``idempotency`` recognizes retries, and ``token_bucket`` limits rates.
* Other nodes: ``outbox`` has the messages on their way to a backplane, and ``stream_entries`` is their format there.
"""
