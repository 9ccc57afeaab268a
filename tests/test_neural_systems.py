"""Systems with networks: names, derivatives, units."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from systems.base import (
    complete_inputs,
    get_parameter,
    parameter_declarations,
    replace_parameters,
    state_names,
)
from systems.neural import HybridVectorField, NeuralVectorField
from systems.pharmacology import OneCompartmentMichaelisMenten

from .helpers_systems import EXAMPLES, NETWORK_KEY, PAIR, field


def test_a_hybrid_names_the_parameters_of_its_law_with_dots():
    hybrid = EXAMPLES["HybridVectorField"]
    declared = {item.name: item for item in parameter_declarations(hybrid)}
    assert list(declared) == [
        "law.prey_growth",
        "law.predation",
        "law.predator_death",
        "law.conversion",
        "network",
        "scale",
    ]
    assert declared["law.prey_growth"].unit == "1/year"
    assert declared["law.prey_growth"].size == 1
    assert declared["network"].size == (2 * 5 + 5) + (5 * 2 + 2)
    changed = replace_parameters(hybrid, {"law.prey_growth": 0.7, "scale": 0.0})
    assert float(changed.law.prey_growth) == 0.7
    assert state_names(hybrid) == ("prey", "predator")


def test_a_hybrid_is_its_law_plus_the_scaled_network():
    law = OneCompartmentMichaelisMenten()
    hybrid = HybridVectorField.make(
        law, key=NETWORK_KEY, width=4, depth=1, magnitudes=(30.0, 10.0), scale=0.25
    )
    inputs = complete_inputs(hybrid, {"dose": 12.0})
    assert set(inputs) == {"dose", "volume"}
    assert np.array_equal(hybrid.initial_state(inputs), [12.0, 0.0])
    assert set(hybrid.derived_quantities()) == set(hybrid.derived_units)
    y = np.asarray([20.0, 5.0])
    magnitudes = np.asarray([30.0, 10.0])
    learned = magnitudes * np.asarray(hybrid.network(jnp.asarray(y / magnitudes)))
    assert np.allclose(field(hybrid, y), field(law, y) + 0.25 * learned, rtol=1e-14)
    alone = replace_parameters(hybrid, {"scale": 0.0})
    assert np.array_equal(field(alone, y), field(law, y))


def test_a_whole_network_is_replaced_at_once():
    system = EXAMPLES["NeuralVectorField"]
    network = get_parameter(system, "network")
    doubled = jax.tree.map(lambda leaf: 2 * leaf if eqx.is_array(leaf) else leaf, network)
    changed = replace_parameters(system, {"network": doubled})
    weights = [ravel_pytree(eqx.filter(n, eqx.is_array))[0] for n in (network, changed.network)]
    assert np.array_equal(2 * weights[0], weights[1])
    assert not np.allclose(field(system, [0.4, 0.2]), field(changed, [0.4, 0.2]))


def test_magnitudes_make_a_network_independent_of_units():
    kilo = NeuralVectorField.make(PAIR, key=NETWORK_KEY, magnitudes=(1.0, 3.0))
    unit = NeuralVectorField.make(PAIR, key=NETWORK_KEY, magnitudes=(1000.0, 3000.0))
    y = np.asarray([0.7, -2.0])
    assert np.allclose(1000 * field(kilo, y), field(unit, 1000 * y), rtol=1e-12)


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.softplus])
def test_networks_pass_through_jit_vmap_and_grad(activation, key):
    system = NeuralVectorField.make(PAIR, key=key, width=4, depth=1, activation=activation)

    def loss(system, y):
        return jnp.sum(field(system, y) ** 2)

    points = jax.random.normal(key, (3, 2))
    gradient = eqx.filter_jit(eqx.filter_grad(loss))(system, points[0])
    flat = ravel_pytree(eqx.filter(gradient, eqx.is_inexact_array))[0]
    assert flat.shape == (parameter_declarations(system)[0].size,)
    assert np.all(np.isfinite(flat))
    assert float(jnp.max(jnp.abs(flat))) > 0
    losses = eqx.filter_jit(eqx.filter_vmap(loss, in_axes=(None, 0)))(system, points)
    assert np.allclose(losses, [loss(system, y) for y in points], rtol=1e-12)
    # An ensemble of networks: one for each key, the weights with an axis in front.
    keys = jax.random.split(key, 3)
    members = eqx.filter_vmap(
        lambda key: NeuralVectorField.make(
            PAIR, key=key, width=4, depth=1, activation=activation
        )
    )(keys)
    slopes = eqx.filter_vmap(lambda member: field(member, points[0]))(members)
    assert slopes.shape == (3, 2)
    single = NeuralVectorField.make(PAIR, key=keys[1], width=4, depth=1, activation=activation)
    assert np.allclose(slopes[1], field(single, points[0]), rtol=1e-12)
