"""Classes of agents that differ in what they import, and nothing else."""
