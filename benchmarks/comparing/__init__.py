"""The parts of `benchmarks/learning.py`: cells, data, small models that give what large ones give, tables."""
