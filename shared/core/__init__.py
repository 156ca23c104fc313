"""Pure mathematics and protocol state: no IO, no clock, no randomness of its own."""
