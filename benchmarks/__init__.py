"""Benchmarks: what the pipeline costs, and against what. Start at `cli.py`; docs/benchmarks.md shows the latest."""
