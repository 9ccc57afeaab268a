"""Curvature of plain functions of pytrees: operators, dense and sparse forms, spectra."""
