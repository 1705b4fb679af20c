"""Tokens and conditioning of scenes, encoded once."""
