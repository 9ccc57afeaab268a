"""From measurements to parameters and their uncertainty."""
