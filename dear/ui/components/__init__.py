"""Components that several tabs share: controls, runs, files and pictures."""
