"""Molecular models fitted to forces, to averages over trajectories, and to finer models."""
