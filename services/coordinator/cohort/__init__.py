"""Who takes part: as clients answer, as rounds choose, and as rules find."""
