"""Case files: their schema, their strict reader, their data."""
