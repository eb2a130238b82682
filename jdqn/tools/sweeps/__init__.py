"""Many trainings: what is asked for, one trial at a time, and those that run them."""
