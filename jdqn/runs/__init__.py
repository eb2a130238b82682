"""What a run keeps and shows: counters, the directory, checkpoints, evaluations, progress."""
