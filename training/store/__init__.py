"""Sharded caches, for datasets of any size and several machines."""
