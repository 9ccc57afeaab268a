"""Settings for every test: double precision, strict promotion, quiet devices."""

import os


# Read by jax when its backend starts, so it must stand before any import of jax.
# Devices of a busy machine may meet late, for which XLA would end the process.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=4 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=1000000",
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key() -> jax.Array:
    """A random key; the same in every run."""
    return jax.random.key(20261121)
