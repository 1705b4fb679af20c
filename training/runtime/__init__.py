"""Parts of every command: exit status, progress, signals, locks, worker processes and stamps."""
