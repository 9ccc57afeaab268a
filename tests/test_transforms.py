"""Coordinates of the optimiser: bijections with the right slope."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simkit.fitting.transforms import Transform, make_transform


TRANSFORMS = {
    "linear": make_transform("linear", -math.inf, math.inf, -3.0),
    "linear above": make_transform("linear", -1.0, math.inf, 2.0),
    "linear below": make_transform("linear", -math.inf, 5.0, 2.0),
    "linear within": make_transform("linear", -1.0, 4.0, 2.0),
    "log": make_transform("log", 0.0, math.inf, 2.0),
    "log above": make_transform("log", 0.1, math.inf, 2.0),
    "log below": make_transform("log", 0.0, 5.0, 2.0),
    "log within": make_transform("log", 0.1, 5.0, 2.0),
    "logit": make_transform("logit", -1.0, 4.0, 2.0),
}
each_transform = pytest.mark.parametrize("name", TRANSFORMS)
bound = st.floats(-50, 50)


@st.composite
def situations(draw) -> tuple[Transform, float]:
    """A transform with any scale and bounds, and a value well inside them."""
    scale = draw(st.sampled_from(["linear", "log", "logit", None]))
    kind = draw(st.sampled_from(["none", "lower", "upper", "both"]))
    low = draw(st.floats(0.01, 50) if scale == "log" else bound)
    width = draw(st.floats(0.1, 50))
    value = low + draw(st.floats(0.05, 0.95)) * width
    lower = low if kind in ("lower", "both") else (0.0 if scale == "log" else -math.inf)
    upper = low + width if kind in ("upper", "both") else math.inf
    if scale == "logit":
        lower, upper = low, low + width
    return make_transform(scale, lower, upper, value), value


@settings(deadline=None, max_examples=200)
@given(situations())
def test_round_trip(situation):
    transform, value = situation
    x = transform.to_unbounded(np.array(value))
    assert np.isfinite(x)
    back = float(transform.to_natural(jnp.asarray(x)))
    assert back == pytest.approx(value, rel=1e-9, abs=1e-9)


@each_transform
def test_every_coordinate_stays_within_the_bounds_and_moves_one_way(name):
    transform = TRANSFORMS[name]
    x = jnp.linspace(-12.0, 12.0, 401) if transform.scale != "log" else jnp.linspace(-4, 4, 401)
    values = np.asarray(transform.to_natural(x))
    assert np.all((values >= transform.lower) & (values <= transform.upper))
    steps = np.diff(values)
    assert np.all(steps > 0) or np.all(steps < 0)
    np.testing.assert_allclose(transform.to_unbounded(values), x, rtol=1e-6, atol=1e-6)


@each_transform
@pytest.mark.parametrize("x", [-2.3, 0.0, 0.4, 1.9])
def test_log_slope_is_that_of_finite_differences(name, x):
    transform, step = TRANSFORMS[name], 1e-6
    up, down = (float(transform.to_natural(jnp.asarray(x + s))) for s in (step, -step))
    expected = math.log(abs(up - down) / (2 * step))
    assert float(transform.log_slope(jnp.asarray(x))) == pytest.approx(expected, abs=1e-6)


def test_the_scale_is_chosen_by_the_bounds():
    assert make_transform(None, 0.0, 1.0, 0.5).scale == "logit"
    assert make_transform(None, 0.0, math.inf, 0.5).scale == "log"
    assert make_transform(None, 2.0, math.inf, 5.0).scale == "log"
    assert make_transform(None, -1.0, math.inf, 0.5).scale == "linear"
    assert make_transform(None, -math.inf, 1.0, 0.5).scale == "linear"


def test_a_step_of_one_is_as_large_as_the_value():
    """Or as `width` says, or one where the value is zero, or a factor of e on a log scale."""
    one = jnp.asarray(1.0)
    assert float(make_transform("linear", -math.inf, math.inf, -8.0).to_natural(one)) == 0.0
    assert float(make_transform("linear", -math.inf, math.inf, 0.0).to_natural(one)) == 1.0
    narrow = make_transform("linear", -math.inf, math.inf, 5.0, 0.1)
    assert float(narrow.to_natural(one)) == pytest.approx(5.1)
    assert float(make_transform("log", 0.0, math.inf, 7.0).to_natural(one)) == pytest.approx(
        math.e
    )


@pytest.mark.parametrize(
    ("name", "touching", "clear"),
    [
        ("linear above", [-1.0, -1.0 + 1e-6], [-1.0 + 1e-5, 0.0, 1e9]),
        ("linear below", [5.0, 5.0 - 1e-6], [5.0 - 1e-5, -1e9]),
        ("linear within", [-1.0, 4.0, 4.0 - 4e-6], [-1.0 + 1e-5, 4.0 - 1e-5]),
        ("logit", [-1.0, 4.0, 4.0 - 4e-6], [-1.0 + 1e-5, 4.0 - 1e-5]),
        ("log above", [0.1, 0.1 * (1 + 5e-7)], [0.1 * (1 + 1e-5), 1e9]),
        ("log below", [5.0, 5.0 * (1 - 5e-7)], [5.0 * (1 - 1e-5), 1e-200, 0.0]),
        ("log within", [0.1, 5.0], [0.11, 4.9]),
        ("linear", [], [0.0, 1e12, -1e12]),
        ("log", [], [1e-300, 0.0, 1e300]),
    ],
)
def test_at_bound(name, touching, clear):
    transform = TRANSFORMS[name]
    assert all(transform.at_bound(value) for value in touching)
    assert not any(transform.at_bound(value) for value in clear)
