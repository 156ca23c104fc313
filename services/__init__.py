"""One folder, one process, one queue."""
