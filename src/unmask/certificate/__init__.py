"""Is what is served right? Golden vectors with those of the usual faults, and a check of folders, servers and files."""
