"""Systems: known values, conserved quantities, declarations, derivatives, moments."""

import importlib
import inspect
import math
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import systems
from systems.base import (
    AbstractHamiltonian,
    AbstractODE,
    AbstractSystem,
    Input,
    State,
    complete_inputs,
    get_parameter,
    parameter,
    parameter_declarations,
    replace_parameters,
    state_names,
)
from systems.chaos import Lorenz63
from systems.neural import HybridVectorField, NeuralVectorField
from systems.oscillators import HarmonicOscillator, VanDerPol
from systems.pharmacology import OneCompartmentMichaelisMenten, OneCompartmentOral
from systems.populations import SIR, LotkaVolterra
from systems.stochastic import GeometricBrownianMotion, OrnsteinUhlenbeck

from .helpers_systems import EXAMPLES, NETWORK_KEY, PAIR, field


each_system = pytest.mark.parametrize("name", EXAMPLES)


def typical_state(system: AbstractSystem) -> np.ndarray:
    """A state off every axis, of the size of the default one."""
    start = np.asarray(system.initial_state(complete_inputs(system, None)))
    return start * 1.1 + 0.3


def test_every_public_system_has_an_example():
    public = {
        name
        for name in systems.__all__
        if inspect.isclass(getattr(systems, name))
        and issubclass(getattr(systems, name), AbstractSystem)
        and not inspect.isabstract(getattr(systems, name))
    }
    assert public == set(EXAMPLES)


def test_the_three_packages_lie_in_one_folder():
    folders = {
        Path(str(importlib.import_module(name).__file__)).resolve().parent.parent
        for name in ("simkit", "solvers", "systems")
    }
    assert len(folders) == 1, f"another package shadows one of ours: {folders}"


# Known values of the laws


def test_lotka_volterra():
    system = LotkaVolterra(prey_growth=0.5, predation=0.1, predator_death=0.3, conversion=0.02)
    assert np.allclose(field(system, [10.0, 2.0]), [3.0, -0.2], rtol=1e-14)
    fixed_point = [0.3 / 0.02, 0.5 / 0.1]
    assert np.allclose(field(system, fixed_point), 0.0, atol=1e-15)


def test_sir():
    system = SIR(transmission_rate=2.0, recovery_rate=0.5)
    assert np.allclose(field(system, [60.0, 30.0, 10.0]), [-36.0, 21.0, 15.0], rtol=1e-14)
    # Frequency-dependent: ten times the people, ten times the rates.
    assert np.allclose(field(system, [600.0, 300.0, 100.0]), [-360.0, 210.0, 150.0], rtol=1e-14)
    assert np.allclose(system.initial_state({}), [762.0, 1.0, 0.0])
    # The infected number peaks where the susceptible fraction is 1 / R0.
    assert np.isclose(field(system, [25.0, 30.0, 45.0])[1], 0.0, atol=1e-14)


def test_one_compartment_oral_follows_its_closed_solution():
    system = OneCompartmentOral(absorption_rate=1.5, elimination_rate=0.08, volume=0.5)

    def bateman(t, absorption, elimination, volume):
        gut = 4.02 * jnp.exp(-absorption * t)
        factor = 4.02 * absorption / (volume * (absorption - elimination))
        return jnp.stack([gut, factor * (jnp.exp(-elimination * t) - jnp.exp(-absorption * t))])

    for t in (0.0, 0.4, 3.0, 20.0):
        y, slope = jax.jvp(lambda t: bateman(t, 1.5, 0.08, 0.5), (t,), (1.0,))
        assert np.allclose(field(system, y, t), slope, rtol=1e-12, atol=1e-14)
        # Flip-flop kinetics: exchanged rates, volume times their ratio.
        exchanged = bateman(t, 0.08, 1.5, 0.5 * 0.08 / 1.5)
        assert np.isclose(y[1], exchanged[1], rtol=1e-12)


@pytest.mark.parametrize("system", [OneCompartmentOral(), OneCompartmentMichaelisMenten()])
def test_the_dose_is_in_the_gut_at_the_start(system):
    inputs = complete_inputs(system, {"dose": 5.5})
    assert np.array_equal(system.initial_state(inputs), [5.5, 0.0])
    doses = jnp.asarray([1.0, 2.0, 3.0])
    starts = jax.vmap(lambda dose: system.initial_state({**inputs, "dose": dose}))(doses)
    assert np.array_equal(starts, np.stack([doses, np.zeros(3)], axis=1))


def test_michaelis_menten_is_the_published_right_hand_side():
    system = OneCompartmentMichaelisMenten(
        absorption_rate=0.8, michaelis_constant=2.0, maximum_elimination_rate=1.2
    )
    t, concentration, dose, volume = 1.7, 5.0, 25.0, 4.0
    gut = dose * math.exp(-0.8 * t)
    expected = math.exp(-0.8 * t) * dose * 0.8 / volume - (1.2 / volume) * 5.0 / (2.0 + 5.0)
    got = field(system, [gut, concentration], t, dose=dose, volume=volume)
    assert np.allclose(got, [-0.8 * gut, expected], rtol=1e-14)
    # Far below the Michaelis constant elimination is of first order, far above constant.
    rates = [-float(field(system, [0.0, c], volume=volume)[1]) for c in (1e-6, 1e8)]
    assert np.allclose(rates, [1.2 / 2.0 * 1e-6 / volume, 1.2 / volume], rtol=1e-6)


def test_harmonic_oscillator_follows_its_closed_solution():
    system = HarmonicOscillator(mass=2.0, stiffness=18.0)

    def solution(t):
        return jnp.stack([jnp.cos(3 * t), -2.0 * 3.0 * jnp.sin(3 * t)])

    for t in (0.0, 0.3, 2.0):
        y, slope = jax.jvp(solution, (t,), (1.0,))
        assert np.allclose(field(system, y), slope, rtol=1e-12, atol=1e-13)
        assert np.isclose(system.energy(y), 9.0, rtol=1e-14)


@pytest.mark.parametrize("damping", [0.0, 1.0, 1000.0])
def test_van_der_pol(damping):
    system = VanDerPol(damping=damping)
    assert np.allclose(field(system, [2.0, -0.5]), [-0.5, 1.5 * damping - 2.0], rtol=1e-14)
    assert np.allclose(field(system, [0.0, 1.0]), [1.0, damping], rtol=1e-14)


def test_lorenz():
    system = Lorenz63(sigma=10.0, rho=28.0, beta=8 / 3)
    assert np.allclose(field(system, [1.0, 2.0, 3.0]), [10.0, 23.0, -6.0], rtol=1e-14)
    root = math.sqrt(8 / 3 * 27)
    assert np.allclose(field(system, [root, root, 27.0]), 0.0, atol=1e-12)
    jacobian = jax.jacfwd(lambda y: field(system, y))(jnp.asarray([1.0, 2.0, 3.0]))
    assert np.isclose(jnp.trace(jacobian), -(10.0 + 1.0 + 8 / 3), rtol=1e-14)


# Conserved quantities


def test_conserved_quantities_do_not_change_along_the_vector_field(key):
    law = LotkaVolterra(prey_growth=0.6, predation=0.03, predator_death=0.8, conversion=0.02)

    def invariant(y):
        prey, predator = y
        return 0.02 * prey - 0.8 * jnp.log(prey) + 0.03 * predator - 0.6 * jnp.log(predator)

    oscillator = HarmonicOscillator(mass=1.7, stiffness=0.4)
    for start in np.asarray(jax.random.uniform(key, (20, 3), minval=0.5, maxval=50.0)):
        pair = jnp.asarray(start[:2])
        change = jnp.vdot(jax.grad(invariant)(pair), field(law, pair))
        assert abs(float(change)) < 1e-12
        change = jnp.vdot(jax.grad(oscillator.energy)(pair), field(oscillator, pair))
        assert abs(float(change)) < 1e-11
        assert abs(float(jnp.sum(field(SIR(), start)))) < 1e-12


def test_the_pendulum_gets_its_vector_field_from_its_energies():
    class Pendulum(AbstractHamiltonian):
        length: Any = parameter(1.0, unit="m", positive=True)
        states: ClassVar[tuple[State, ...]] = (State("angle", 0.1), State("momentum", 0.0))

        def kinetic_energy(self, momenta):
            return jnp.sum(momenta**2) / (2 * self.length**2)

        def potential_energy(self, positions):
            return -9.81 * self.length * jnp.sum(jnp.cos(positions))

    got = field(Pendulum(length=2.0), [0.3, 0.8])
    assert np.allclose(got, [0.8 / 4.0, -9.81 * 2.0 * math.sin(0.3)], rtol=1e-14)


# Declarations


def test_declarations_tell_name_unit_and_bounds():
    declared = parameter_declarations(SIR())
    assert [item.name for item in declared] == ["transmission_rate", "recovery_rate"]
    assert {item.unit for item in declared} == {"1/day"}
    assert {(item.lower, item.upper, item.size) for item in declared} == {(0.0, math.inf, 1)}
    mean = parameter_declarations(OrnsteinUhlenbeck())[1]
    assert (mean.name, mean.lower) == ("long_term_mean", -math.inf)


@each_system
def test_every_system_is_described(name):
    system = EXAMPLES[name]
    declared = parameter_declarations(system)
    assert declared
    assert all(item.description and item.unit for item in declared)
    assert all(state.unit for state in system.states)
    names = state_names(system)
    assert len(set(names)) == len(names)
    assert set(system.derived_quantities()) == set(system.derived_units)
    assert "Source:" in str(type(system).__doc__)
    inputs = complete_inputs(system, None)
    start = np.asarray(system.initial_state(inputs))
    assert start.shape == (len(names),)
    assert np.array_equal(start, [state.default for state in system.states])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: LotkaVolterra(prey_growth=-0.1),
            "LotkaVolterra: parameter 'prey_growth' is -0.1, expected a number "
            "from 0 to inf (unit 1/year).",
        ),
        (
            lambda: SIR(recovery_rate=math.nan),
            "SIR: parameter 'recovery_rate' is nan, expected a number "
            "from 0 to inf (unit 1/day).",
        ),
        (
            lambda: HybridVectorField.make(LotkaVolterra(), key=NETWORK_KEY, scale=-1.0),
            "HybridVectorField: parameter 'scale' is -1.0, expected a number "
            "from 0 to inf (unit 1).",
        ),
        (
            lambda: HybridVectorField.make(OrnsteinUhlenbeck(), key=NETWORK_KEY),
            "HybridVectorField: law is OrnsteinUhlenbeck, a stochastic system; "
            "expected a deterministic one.",
        ),
        (
            lambda: NeuralVectorField.make(PAIR, key=NETWORK_KEY, magnitudes=(1.0, -2.0)),
            "NeuralVectorField: magnitudes is (1.0, -2.0), expected one positive number "
            "for each of the 2 states.",
        ),
        (
            lambda: NeuralVectorField.make(PAIR, key=NETWORK_KEY, magnitudes=(1.0,)),
            "NeuralVectorField: magnitudes is (1.0,), expected one positive number "
            "for each of the 2 states.",
        ),
        (
            lambda: NeuralVectorField(
                PAIR, (1.0, 1.0), eqx.nn.MLP(3, 2, 4, 1, key=NETWORK_KEY)
            ),
            "NeuralVectorField: network maps 3 to 2 numbers, expected 2 to 2, "
            "one for each state.",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value) == message


def test_bounds_are_closed():
    assert float(LotkaVolterra(predation=0.0).predation) == 0.0
    assert float(VanDerPol(damping=0).damping) == 0.0


@pytest.mark.parametrize("double", [False, True])
def test_parameters_keep_double_precision_whenever_they_are_made(double):
    # A system is often made at the top of a script, before the first entry point of
    # simkit switches double precision on.
    with jax.enable_x64(double):
        law = LotkaVolterra(prey_growth=0.1, predation=1)
        network = NeuralVectorField.make(PAIR, key=NETWORK_KEY, width=5, depth=2).network
    for leaf in jax.tree.leaves(law):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == np.float64
        assert leaf.shape == ()
    assert float(law.prey_growth) == 0.1
    reference = EXAMPLES["NeuralVectorField"].network  # pyright: ignore[reportAttributeAccessIssue]
    weights, expected = (
        ravel_pytree(eqx.filter(n, eqx.is_array))[0] for n in (network, reference)
    )
    assert weights.dtype == np.float64
    assert np.array_equal(weights, expected)


def test_parameters_are_found_and_replaced_by_name():
    system = LotkaVolterra()
    changed = replace_parameters(system, {"prey_growth": 0.9, "conversion": 0.01})
    assert float(get_parameter(changed, "prey_growth")) == 0.9
    assert float(changed.conversion) == 0.01
    assert float(system.prey_growth) == 0.55
    assert get_parameter(changed, "prey_growth").dtype == np.float64
    for act in (
        lambda: get_parameter(system, "prey_grwth"),
        lambda: replace_parameters(system, {"states": 1.0}),
    ):
        with pytest.raises(KeyError, match="LotkaVolterra has no parameter"):
            act()


def test_inputs_are_completed_and_unknown_ones_refused():
    system = OneCompartmentMichaelisMenten()
    completed = complete_inputs(system, {"volume": 3})
    assert {name: float(value) for name, value in completed.items()} == {
        "dose": 30.0,
        "volume": 3.0,
    }
    assert all(value.dtype == np.float64 for value in completed.values())
    with pytest.raises(ValueError) as caught:
        complete_inputs(system, {"dosis": 1.0})
    assert str(caught.value) == (
        "OneCompartmentMichaelisMenten has no input 'dosis'; it has ['dose', 'volume']."
    )
    with pytest.raises(ValueError) as caught:
        complete_inputs(LotkaVolterra(), {"dose": 1.0})
    assert str(caught.value) == "LotkaVolterra has no input 'dose'; it has none."


def test_a_law_that_asks_for_an_undeclared_input_fails_by_its_name():
    class Driven(AbstractODE):
        states: ClassVar[tuple[State, ...]] = (State("x", 1.0),)
        inputs: ClassVar[tuple[Input, ...]] = (Input("force", 2.0),)

        def vector_field(self, t, y, inputs):
            return inputs["forse"] - y

    with pytest.raises(KeyError, match="forse"):
        field(Driven(), [1.0])


def test_abstract_kinds_cannot_be_made():
    class Unfinished(AbstractODE):
        states: ClassVar[tuple[State, ...]] = (State("x", 1.0),)

    with pytest.raises(TypeError, match="vector_field"):
        Unfinished()  # pyright: ignore[reportAbstractUsage]


# Derived quantities


def test_derived_quantities():
    sir = SIR(transmission_rate=1.8, recovery_rate=0.6).derived_quantities()
    assert np.isclose(sir["basic_reproduction_number"], 3.0)
    assert np.isclose(sir["recovery_time"], 1 / 0.6)
    oral = OneCompartmentOral(elimination_rate=0.1, volume=0.4).derived_quantities()
    assert np.isclose(oral["clearance"], 0.04)
    assert np.isclose(math.exp(-0.1 * float(oral["half_life"])), 0.5)
    saturable = OneCompartmentMichaelisMenten(
        michaelis_constant=4.0, maximum_elimination_rate=2.0
    ).derived_quantities()
    assert np.isclose(saturable["intrinsic_clearance"], 0.5)
    oscillator = HarmonicOscillator(mass=2.0, stiffness=18.0).derived_quantities()
    assert np.isclose(oscillator["angular_frequency"], 3.0)
    assert np.isclose(oscillator["period"], 2 * math.pi / 3)
    motion = GeometricBrownianMotion(growth_rate=0.1, volatility=0.4).derived_quantities()
    assert np.isclose(motion["median_growth_rate"], 0.02)


# Derivatives


@each_system
def test_derivatives_agree_with_finite_differences(name):
    """Of the vector field by state and by every parameter, under jit and vmap."""
    system = EXAMPLES[name]
    arrays, static = eqx.partition(system, eqx.is_inexact_array)
    flat, unravel = ravel_pytree(arrays)
    y = typical_state(system)
    size = len(y)
    inputs = complete_inputs(system, None)

    def law(point):
        whole = eqx.combine(unravel(point[size:]), static)
        return whole.vector_field(jnp.asarray(0.5), point[:size], inputs)

    point = jnp.concatenate([jnp.asarray(y), flat])
    steps = 1e-6 * np.maximum(np.abs(np.asarray(point)), 1e-2)
    shifted = np.asarray(point) + np.concatenate([np.diag(steps), -np.diag(steps)])
    both = jax.jit(jax.vmap(law))(jnp.asarray(shifted))
    differences = ((both[: len(point)] - both[len(point) :]) / (2 * steps[:, None])).T
    forward = jax.jit(jax.jacfwd(law))(point)
    reverse = jax.jit(jax.jacrev(law))(point)
    scale = float(jnp.max(jnp.abs(forward)))
    assert np.all(np.isfinite(forward))
    assert np.allclose(forward, reverse, rtol=1e-12, atol=1e-13 * scale)
    assert np.allclose(forward, differences, rtol=1e-5, atol=1e-8 * scale)


def test_new_parameter_values_are_not_compiled_anew():
    traces = []

    @eqx.filter_jit
    def compiled(system, y):
        traces.append(type(system).__name__)
        return field(system, y)

    first = compiled(LotkaVolterra(prey_growth=0.5), np.asarray([10.0, 2.0]))
    second = compiled(LotkaVolterra(prey_growth=1), np.asarray([10.0, 2.0]))
    assert traces == ["LotkaVolterra"]
    assert np.allclose(second - first, [5.0, 0.0], rtol=1e-12)
