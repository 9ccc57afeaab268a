"""Result files: HDF5 that xarray, netCDF tools and ArviZ open without simkit."""

from simkit.store.describe import Description, Variable, describe
from simkit.store.reader import load
from simkit.store.schema import StoreError
from simkit.store.writer import save


__all__ = ["Description", "StoreError", "Variable", "describe", "load", "save"]
