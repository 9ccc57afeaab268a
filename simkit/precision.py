"""Double precision, switched on by the entry points and never at import."""


def use_double_precision() -> None:
    """Make jax compute in float64 from here on.

    `simulate`, `fit` and `uncertainty` call it: in single precision the tolerances that
    fits need cannot be met.
    """
    import jax

    if not jax.config.read("jax_enable_x64"):
        jax.config.update("jax_enable_x64", True)
