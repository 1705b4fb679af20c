"""The quality of sounds: metrics of arrays, the judges that they use, and the scores of a checkpoint."""
