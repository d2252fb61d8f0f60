"""Encoder folders for other runtimes: written for what each really reads, read back, compared; or refused."""
