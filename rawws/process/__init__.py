"""What a program needs besides its server: signals, workers, systemd, and the allocator's settings."""
