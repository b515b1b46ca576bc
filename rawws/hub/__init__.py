"""Rooms as a program holds them: a `Hub` of rooms by path, a `Room`, and its members."""
