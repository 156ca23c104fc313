"""A dedicated key holder: it helps to open sums, and sees no update."""
