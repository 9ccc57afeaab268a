"""Free numbers: labels, bounds, priors and starts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from simkit.config.schema import (
    Exponential,
    FreeParameter,
    Gamma,
    LogNormal,
    Normal,
    Uniform,
)
from simkit.fitting.measurements import Observable, measurements_from_rows
from simkit.fitting.parameters import Parameters, Target, build_parameters
from systems.neural import NeuralVectorField
from systems.populations import LotkaVolterra

from .helpers_fits import Decay


LABELS = ("ann", "ben", "eve")


def build(system=None, groups=LABELS, sd=None, model="normal", **free: Any) -> Parameters:
    """Parameters of a decay seen in some groups."""
    count = 3 * len(groups)
    measurements = measurements_from_rows(
        [Observable("seen", "amount", model, sd, unit="mg")],
        time=[0.0, 1.0, 2.0] * len(groups),
        observable=["seen"] * count,
        value=[4.0, 2.0, 1.0] * len(groups),
        group=[label for label in groups for _ in range(3)],
    )
    standard = {"parameters": {}, "initial_state": {}, "noise": {}}
    return build_parameters(
        system or Decay(), measurements, **{**standard, **free}, initial_values={"amount": 2.0}
    )


def rate(**changes) -> Parameters:
    """Parameters whose only free number is the rate of the decay, 0.7 in the case."""
    return build(sd=1.0, parameters={"rate": FreeParameter(**changes)})


def test_labels_units_and_order():
    found = build(
        parameters={"rate": FreeParameter(each=True)},
        initial_state={"amount": FreeParameter()},
    )
    assert found.labels == [
        "rate[ann]",
        "rate[ben]",
        "rate[eve]",
        "initial_state.amount",
        "noise.seen",
    ]
    assert [entry.unit for entry in found.entries] == ["1/h"] * 3 + ["mg"] * 2
    assert [entry.value for entry in found.entries[:4]] == [0.7, 0.7, 0.7, 2.0]
    assert [entry.transform.scale for entry in found.entries] == ["log"] * 3 + ["linear", "log"]


def test_index_says_which_number_serves_which_group():
    found = build(
        parameters={"rate": FreeParameter(each=True)},
        initial_state={"amount": FreeParameter()},
    )
    assert found.index(Target("parameter", "rate"), 3) == [0, 1, 2]
    assert found.index(Target("initial_state", "amount"), 3) == [3, 3, 3]
    assert found.index(Target("noise", "seen"), 3) == [4, 4, 4]
    assert found.index(Target("parameter", "nothing"), 3) == [-1, -1, -1]


def test_each_element_of_a_network_is_a_number():
    state = Decay().states
    network = NeuralVectorField.make(state, key=jax.random.key(0), width=2, depth=1)
    found = build(network, groups=("a",), sd=1.0, parameters={"network": FreeParameter()})
    assert found.labels == [f"network[{i}]" for i in range(2 + 2 + 2 + 1)]
    assert [entry.target.element for entry in found.entries] == list(range(7))


def test_a_given_noise_scale_is_not_free_and_one_of_counts_has_no_unit():
    assert rate().labels == ["rate"]
    counts = build(model="negative_binomial")
    assert counts.labels == ["noise.seen"]
    assert counts.entries[0].unit == "1"
    poisson = build(model="poisson", parameters={"rate": FreeParameter()})
    assert poisson.labels == ["rate"]


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (FreeParameter(), (0.0, math.inf, "log")),
        (FreeParameter(upper=3.0), (0.0, 3.0, "logit")),
        (FreeParameter(lower=0.5), (0.5, math.inf, "log")),
        (FreeParameter(scale="linear"), (0.0, math.inf, "linear")),
        (FreeParameter(prior=Uniform(lower=0.5, upper=2.0)), (0.5, 2.0, "logit")),
        (
            FreeParameter(lower=0.6, upper=3.0, prior=Uniform(lower=0.5, upper=2.0)),
            (0.6, 2.0, "logit"),
        ),
    ],
)
def test_bounds_come_from_the_system_the_case_and_the_prior(free, expected):
    transform = (
        rate(**{f: getattr(free, f) for f in free.__struct_fields__}).entries[0].transform
    )
    assert (transform.lower, transform.upper, transform.scale) == expected


@pytest.mark.parametrize(
    "prior",
    [LogNormal(median=2.0, sd=1.0), Exponential(rate=1.0), Gamma(shape=2.0, rate=1.0)],
)
def test_a_prior_of_positive_numbers_keeps_an_initial_state_positive(prior):
    found = build(sd=1.0, initial_state={"amount": FreeParameter(prior=prior)})
    assert found.entries[0].transform.lower == 0.0
    assert found.entries[0].transform.scale == "log"


def test_the_first_start_is_the_case():
    found = build(
        parameters={"rate": FreeParameter(each=True, start=(5.0, 9.0))},
        initial_state={"amount": FreeParameter(prior=Normal(mean=7.0, sd=0.1))},
    )
    starts = found.draw_starts(jax.random.key(0), 4)
    first = np.asarray(found.natural(starts[0]))
    np.testing.assert_allclose(first[:4], [0.7, 0.7, 0.7, 2.0], rtol=1e-12)


def drawn(parameters: Parameters, count: int = 400) -> np.ndarray:
    """Starts in their units but for the first, by one program as in a fit."""
    starts = jax.jit(lambda key: parameters.draw_starts(key, count))(jax.random.key(1))
    assert np.all(np.isfinite(starts))
    return np.asarray(jax.vmap(parameters.natural)(starts))[1:]


def test_starts_come_from_their_range_evenly_on_their_scale():
    values = drawn(rate(start=(0.1, 10.0)))[:, 0]
    assert values.min() > 0.1
    assert values.max() < 10.0
    assert np.median(values) == pytest.approx(1.0, rel=0.25)
    linear = drawn(rate(start=(0.1, 10.0), scale="linear"))[:, 0]
    assert np.median(linear) == pytest.approx(5.05, rel=0.15)


def test_starts_without_range_or_prior():
    within = drawn(rate(upper=2.0))[:, 0]
    assert within.min() > 0.0
    assert within.max() < 2.0
    assert within.max() - within.min() > 1.5
    about = drawn(rate())[:, 0]
    assert about.min() >= 0.7 / math.e
    assert about.max() <= 0.7 * math.e


PRIORS = {
    "normal": (Normal(mean=0.9, sd=0.2), scipy.stats.truncnorm(-4.5, np.inf, 0.9, 0.2)),
    "far normal": (Normal(mean=900.0, sd=0.1), scipy.stats.norm(900.0, 0.1)),
    "log_normal": (LogNormal(median=2.0, sd=0.5), scipy.stats.lognorm(0.5, scale=2.0)),
    "uniform": (Uniform(lower=0.2, upper=1.4), scipy.stats.uniform(0.2, 1.2)),
    "exponential": (Exponential(rate=2.0), scipy.stats.expon(scale=0.5)),
    "gamma": (Gamma(shape=2.0, rate=3.0), scipy.stats.gamma(2.0, scale=1 / 3)),
}


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("scale", [None, "linear"])
def test_starts_come_from_the_central_part_of_the_prior(name, scale):
    prior, law = PRIORS[name]
    values = drawn(rate(prior=prior, scale=scale))[:, 0]
    low, high = law.ppf([0.05, 0.95])
    slack = 1e-6 * high
    assert values.min() >= low - slack
    assert values.max() <= high + slack
    # Even in probability, so the law of the starts is that of the prior.
    assert scipy.stats.kstest((law.cdf(values) - 0.05) / 0.9, "uniform").pvalue > 1e-4


def test_starts_from_a_prior_far_from_the_value_of_an_initial_state():
    """The coordinate is centred on the value, ten thousand deviations away."""
    prior = Normal(mean=-1000.0, sd=0.1)
    found = build(sd=1.0, initial_state={"amount": FreeParameter(prior=prior)})
    assert np.all(np.abs(drawn(found) + 1000.0) < 0.2)


def test_a_prior_far_outside_the_bounds_still_starts_inside():
    values = drawn(rate(prior=Normal(mean=0.9, sd=0.01), lower=0.1, upper=0.75))[:, 0]
    assert np.all((values > 0.1) & (values < 0.75))


def test_starts_depend_on_the_seed_alone():
    parameters = rate()
    one, same, other = (parameters.draw_starts(jax.random.key(k), 5) for k in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert np.all(np.asarray(one[1:]) != np.asarray(other[1:]))


def test_log_prior_and_slope_are_those_of_scipy():
    found = build(
        parameters={"rate": FreeParameter(prior=LogNormal(median=2.0, sd=0.5))},
        initial_state={"amount": FreeParameter(prior=Normal(mean=1.0, sd=2.0))},
    )
    p = np.array([0.9, 1.7, 3.0])
    expected = scipy.stats.lognorm.logpdf(0.9, 0.5, scale=2.0)
    expected += scipy.stats.norm.logpdf(1.7, 1.0, 2.0)
    assert float(found.log_prior(jnp.asarray(p))) == pytest.approx(expected, rel=1e-12)
    # d rate / dx is the rate itself, and a unit of the amount is the prior's deviation;
    # the noise scale has no prior, so it is flat in its coordinate.
    x = jnp.asarray(found.unbounded(p.tolist()))
    np.testing.assert_allclose(found.natural(x), p, rtol=1e-12)
    assert float(found.log_slope(x)) == pytest.approx(math.log(0.9) + math.log(2.0), rel=1e-12)


def test_without_priors_both_are_zero():
    assert float(rate().log_prior(jnp.ones(1))) == 0.0
    assert float(rate().log_slope(jnp.ones(1))) == 0.0


@pytest.mark.parametrize(
    ("free", "message"),
    [
        ({"upper": 0.5}, "value of rate is 0.7, expected a number between 0 and 0.5"),
        ({"lower": 0.9}, "value of rate is 0.7, expected a number between 0.9 and inf"),
        ({"prior": Uniform(lower=1.0, upper=2.0)}, "value of rate is 0.7.*between 1 and 2"),
        ({"lower": 2.0, "upper": 1.0}, "no number between 2 and 1, the bounds of rate"),
        ({"scale": "logit"}, "scale of rate is logit, which needs two finite bounds"),
        ({"start": (0.0, 1.0)}, "start of rate is from 0 to 1, expected a range between"),
        ({"start": (2.0, 1.0)}, "start of rate is from 2 to 1"),
        ({"start": (0.5, 4.0), "upper": 3.0}, "start of rate is from 0.5 to 4.*and 3"),
    ],
)
def test_impossible_numbers_are_one_sentence(free, message):
    with pytest.raises(ValueError, match=message):
        rate(**free)


def test_a_value_outside_its_bounds_is_replaced_where_a_range_of_starts_is_given():
    found = rate(lower=1.0, upper=5.0, start=(2.0, 4.0))
    assert found.entries[0].value == 3.0


@pytest.mark.parametrize(
    ("free", "message"),
    [
        ({"parameters": {"speed": FreeParameter()}}, "has no parameter 'speed'"),
        ({"initial_state": {"mass": FreeParameter()}}, "has no state 'mass'"),
        ({"noise": {"heard": FreeParameter()}}, "no observable 'heard'"),
    ],
)
def test_unknown_names_are_one_sentence(free, message):
    with pytest.raises(KeyError, match=message):
        build(**free)


def test_a_noise_scale_that_is_given_cannot_be_free():
    with pytest.raises(ValueError, match="noise scale of seen cannot be free"):
        build(sd=1.0, noise={"seen": FreeParameter()})


def test_nothing_free_is_refused():
    with pytest.raises(ValueError, match="Nothing is free"):
        build(sd=1.0)


def test_parameters_of_a_larger_system_keep_their_declared_bounds():
    measurements = measurements_from_rows(
        [Observable("hare", "prey", sd=1.0)], time=[1.0], observable=["hare"], value=[3.0]
    )
    found = build_parameters(
        LotkaVolterra(),
        measurements,
        parameters={"predation": FreeParameter(), "prey_growth": FreeParameter()},
        initial_state={},
        noise={},
        initial_values={"prey": 1.0, "predator": 1.0},
    )
    assert found.labels == ["predation", "prey_growth"]
    assert all(entry.transform.lower == 0.0 for entry in found.entries)
