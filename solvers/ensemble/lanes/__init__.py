"""Ensembles in plain JAX: a fixed number of lanes that take one member after another."""
