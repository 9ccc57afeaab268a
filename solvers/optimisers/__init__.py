"""Optimisers: least squares and minimisation to second order, as optimistix solvers."""
