"""Jobs and rounds: who takes part, by when, and what the global adapter becomes."""
