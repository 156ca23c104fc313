"""A job's rounds, written where experiments are tracked: one file a backend, one table of them."""
