"""Workers of a group in several languages, each a program: ``PROGRAM NAME PORT MAX LOG``.

Each appends a line to the log before it opens a connection (``NAME open``), when it gets a job (``NAME get ID TRY``),
and before it acknowledges it (``NAME end ID TRY``), and connects again by itself. A browser gets the same in its URL,
and appends to the log by POST.
"""
