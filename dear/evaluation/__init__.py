"""How good the sounds are: metrics of arrays, the classifier that gives them, and the scores of a checkpoint."""
