"""Training the refiner (algorithm 1): pictures, masks, the loop, EMA and checkpoints."""
