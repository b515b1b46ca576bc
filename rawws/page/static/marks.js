// The names of directions, the same as in the log (`rawws/wire/trace.py`); a test compares them.

/** The page only looks on, so it names both sides; by the sender. */
export const DIRECTIONS = { client: "client → server", server: "server → client" };

/** The same, for where there is little room. */
export const SHORT_DIRECTIONS = { client: "c → s", server: "s → c" };

/** A peer of the page itself is an endpoint: its marks are relative to it. */
export const MARKS = { received: "<", sent: ">" };
