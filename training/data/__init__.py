"""Recordings, captions, scenes, and datasets with their manifests."""
