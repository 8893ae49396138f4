"""Numbers: pure functions of tensors. Imports torch and nothing else."""
