"""Many clients on one machine with the production services: see docs/simulation.md."""
