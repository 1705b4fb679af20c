"""The judge: a classifier of sounds, its features, and the metrics computed on them."""
