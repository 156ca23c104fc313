"""Encrypted uploads in, one sum a group out: no single update leaves this service."""
