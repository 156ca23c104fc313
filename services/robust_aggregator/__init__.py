"""Sums in, one trustworthy update a round out."""
