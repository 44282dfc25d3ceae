"""Training: engine, loop, checkpoints, export."""
