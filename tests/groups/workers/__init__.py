"""Workers of a group in several languages, each a program: ``PROGRAM NAME PORT MAX LOG``.

Each appends a line to the log when it gets a job (``NAME get ID TRY``), and one before it acknowledges it
(``NAME end ID TRY``), and connects again by itself.
"""
