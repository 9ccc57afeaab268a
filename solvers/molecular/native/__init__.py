"""Molecular dynamics by compiled kernels: sums over neighbours as vector code."""
