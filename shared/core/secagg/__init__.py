"""Secure aggregation's arithmetic and sealing, pure: bytes and arrays in, bytes and arrays out."""
