"""``python -m rawws``, which is also the command ``rawws``."""

from rawws.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
