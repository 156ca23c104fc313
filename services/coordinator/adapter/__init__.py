"""The global adapter: its first value, and what each round makes of it."""
