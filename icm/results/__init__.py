"""Results: what a labelling run leaves, and everything that reads it."""
