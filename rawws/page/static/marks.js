// The names of directions, the same as in the log (`rawws/wire/trace.py`); a test compares them.

/** The page is neither side, so it names both. The keys are senders. */
export const DIRECTIONS = { client: "client → server", server: "server → client" };

/** A peer of the page itself is an endpoint: its marks are relative to it. */
export const MARKS = { received: "<", sent: ">" };
