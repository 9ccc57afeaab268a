"""Functions of JAX as straight-line programs of scalar operations."""
