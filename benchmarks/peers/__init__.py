"""The libraries that are compared, a module each; a function gets a job and says what it found.

Each runs in the environment its library needs, so nothing here imports another benchmark.
"""
