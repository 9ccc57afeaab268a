"""The command line; `simkit.cli:main` is what the installed command calls."""

from simkit.cli.application import main


__all__ = ["main"]
