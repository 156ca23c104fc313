"""The parts of `benchmarks/attacks.py`: attacks, data, fast training, judging, tables."""
