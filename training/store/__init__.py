"""Caches in shards, for datasets of any size and several machines."""
