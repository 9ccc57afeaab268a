"""Engines for many members of one problem."""
