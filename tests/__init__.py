"""The tests, and the attacks: ``python -m tests.attack``."""
