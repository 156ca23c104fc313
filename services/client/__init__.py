"""The client worker: trains on data that never leaves its machine."""
