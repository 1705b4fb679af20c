"""Measurements after a training, and the model card that states them."""
