"""What both sides of a secure-aggregation session share: its terms, and the part of a key holder."""
