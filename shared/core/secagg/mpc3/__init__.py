"""The protocol `mpc3`, pure: replicated secret sharing among three parties; clients speak once."""
