"""Figures: plots of sounds, and sketches that explain the method."""
