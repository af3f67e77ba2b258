"""Worker processes, one module per peer. Each needs NumPy and its own framework, nothing else."""
