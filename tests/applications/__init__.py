"""Applications in the shape of the tutorials of their frameworks, as their users run them: with ``--app``.

Each folder beside the tests is a project, from whose copy, or in which, the program runs.
"""
