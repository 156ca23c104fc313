"""Robust aggregation whose work is done as updates arrive: after the last one, the last block remains."""
