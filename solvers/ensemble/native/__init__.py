"""Ensembles as compiled kernels: scalar programs become vector code around a whole solve."""
