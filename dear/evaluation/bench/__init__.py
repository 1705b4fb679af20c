"""Benchmark: jobs, their timing, the machine, and other models."""
