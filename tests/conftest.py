"""Settings for every test: double precision, strict promotion, quiet devices."""

import gc
import os
from collections.abc import Iterator


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


# Tracing makes millions of small objects, few of them garbage.
gc.set_threshold(1_000_000, 20, 20)
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


_DEAREST = (
    "test_replayed_gradients",
    "test_sharded_solves",
    "test_curvature",
    "test_distributed",
    "test_fit_methods",
    "test_cutest",
    "test_resume",
    "test_least_squares",
    "test_newton",
    "test_nist",
    "test_quasi_newton",
    "test_docs",
    "test_scripts",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The dearest files first, so that no worker is left alone with one of them."""
    rank = {name: place for place, name in enumerate(_DEAREST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module", autouse=True)
def forget_programs() -> Iterator[None]:
    """Compiled programs of a file that is done would fill gigabytes of memory."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def key() -> jax.Array:
    """A random key; the same in every run."""
    return jax.random.key(20261121)
