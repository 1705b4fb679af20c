"""Training: recipes, the loop, its schedule, and what it writes."""
