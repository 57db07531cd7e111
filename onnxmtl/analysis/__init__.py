"""Read-only analyses of graphs."""
