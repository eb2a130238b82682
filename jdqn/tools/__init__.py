"""What the doors call beside training: curves, timings, peers."""
