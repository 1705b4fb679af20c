"""Benchmark: jobs, their timing, the machine, and the pipelines to compare with."""
