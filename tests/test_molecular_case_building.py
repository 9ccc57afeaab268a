"""What molecular cases say, as models, starts and methods."""

from pathlib import Path
from typing import Any

import equinox as eqx
import msgspec
import numpy as np
import pytest

from simkit.config.molecular import MolecularCase
from simkit.config.molecular_methods import Barostat, Method, Minimiser, Thermostat
from simkit.config.molecular_terms import CutOff, ManyBody, Pair
from simkit.importers.xyz import Structure, write_xyz
from simkit.molecular.case_problem import build_method, build_minimiser, build_problem
from systems.molecular.corrections import TailCorrection
from systems.molecular.cutoffs import Truncated
from systems.molecular.mixing import waldman_hagler
from systems.molecular.model import MolecularModel, PairTerm
from systems.molecular.pairwise import LennardJones, WeeksChandlerAndersen


PAIRS = {
    "LennardJones": {}, "WeeksChandlerAndersen": {}, "SoftSphere": {}, "HarmonicSphere": {},
    "Buckingham": {"repulsion": 9.0, "decay": 0.3, "dispersion": 1.0},
    "Morse": {"depth": 1.0, "steepness": 2.0, "distance": 1.1},
    "Yukawa": {"strength": 1.0, "screening": 2.0},
}  # fmt: skip
MANY_BODY = {"StillingerWeber": {}, "Tersoff": {"file": "si"}, "EmbeddedAtom": {"file": "cu"}}
CUT_OFFS = {"Truncated": {}, "Shifted": {}, "ForceShifted": {}, "Switched": {"onset": 1.5}}
STEP = {"time_step": 0.004}
THERMOSTATS = {
    "Langevin": {"temperature": 1.0, "friction": 1.0},
    "NoseHooverChain": {"temperature": 1.0, "relaxation_time": 1.0, "length": 4},
    "StochasticVelocityRescaling": {"temperature": 1.0, "relaxation_time": 1.0},
}
INNER = {"type": "Langevin", **STEP, **THERMOSTATS["Langevin"]}
BAROSTATS = {
    "MonteCarloBarostat": {"dynamics": INNER, "pressure": 1.0, "flexible": True},
    "StochasticCellRescaling": {
        "dynamics": INNER, "pressure": 1.0, "relaxation_time": 1.0, "compressibility": 0.1
    },
}  # fmt: skip
MINIMISERS = {"FIRE": {"with_box": True}, "LBFGS": {"memory": 5}}


def _case(molecules: dict[str, Any], dynamics: dict[str, Any], **more: Any) -> MolecularCase:
    molecules = {"lattice": "fcc", "repeats": 3, "density": 0.8, **molecules}
    dynamics = {"steps": 10, "temperature": 1.0, **dynamics}
    tables = {"molecules": molecules, "dynamics": dynamics, **more}
    values = {"schema": 1, "title": "t", **tables}
    return msgspec.convert(values, MolecularCase, strict=True)


def test_every_type_of_a_case_is_a_class() -> None:
    """With the same arguments."""
    methods = {
        **{name: {**STEP, **options} for name, options in THERMOSTATS.items()},
        "VelocityVerlet": STEP,
        "Brownian": INNER,
        **BAROSTATS,
    }
    for union, tables in (
        (Pair, PAIRS), (ManyBody, MANY_BODY), (CutOff, CUT_OFFS), (Thermostat, THERMOSTATS),
        (Barostat, BAROSTATS), (Method, methods), (Minimiser, MINIMISERS),
    ):  # fmt: skip
        assert {kind.__name__ for kind in union.__args__} == set(tables)
    langevin = {"method": INNER}
    for pair, options in PAIRS.items():
        table: dict[str, Any] = {"potential": {"type": pair, **options}}
        bounded = pair in ("WeeksChandlerAndersen", "HarmonicSphere")
        if not bounded:
            table["cutoff"] = {"type": "Shifted", "radius": 2.0}
        found: Any = build_problem(_case(table, langevin)).model.terms[0]
        assert type(found.pair if bounded else found.pair.pair).__name__ == pair
    morse = {"type": "Morse", **PAIRS["Morse"]}
    for cut_off, options in CUT_OFFS.items():
        table = {"potential": morse, "cutoff": {"type": cut_off, "radius": 2.0, **options}}
        term: Any = build_problem(_case(table, langevin)).model.terms[0]
        assert type(term.pair).__name__ == cut_off
        assert term.range == 2.0
    for method, options in methods.items():
        case = _case({"potential": morse}, {"method": {**options, "type": method}})
        built: Any = build_method(case)
        assert type(built).__name__ == method
        assert float(built.duration) == 0.004
        if method in BAROSTATS:
            assert type(built.dynamics).__name__ == "Langevin"
            assert built.flexible is options.get("flexible", False)
    for method, options in MINIMISERS.items():
        table = {"method": {"type": method, **options}}
        built = build_minimiser(_case({"potential": morse}, langevin, minimisation=table))
        assert type(built).__name__ == method
        assert (built.with_box, getattr(built, "memory", 5)) == (method == "FIRE", 5)


def test_a_mixture_of_several_terms_is_their_sum() -> None:
    mixed = {"type": "LennardJones", "epsilon": [1.0, 0.5], "sigma": [1.0, 0.9],
             "mixing": "waldman_hagler"}  # fmt: skip
    table = {
        "potential": mixed,
        "cutoff": {"type": "Truncated", "radius": 2.2},
        "tail_correction": True,
        "terms": [{"potential": {"type": "WeeksChandlerAndersen", "sigma": 0.9}}],
        "species": [{"name": "A", "mass": 2.0, "count": 40}, {"name": "B", "count": 68}],
    }
    problem = build_problem(_case(table, {"method": INNER}))
    species = np.asarray(problem.model.species)
    assert np.bincount(species).tolist() == [40, 68]
    assert not np.all(np.diff(species) >= 0)
    np.testing.assert_array_equal(problem.model.masses, np.where(species == 0, 2.0, 1.0))
    whole = Truncated(
        LennardJones(np.array([1.0, 0.5]), np.array([1.0, 0.9]), waldman_hagler), 2.2
    )
    others = [
        PairTerm(whole),
        TailCorrection(whole, 2),
        PairTerm(WeeksChandlerAndersen(1.0, 0.9)),
    ]
    models = [MolecularModel(one, problem.model.masses, species=species) for one in others]

    @eqx.filter_jit
    def energies(models: Any) -> Any:
        return [model.energy(problem.positions, problem.box) for model in models]

    found, *parts = energies([problem.model, *models])
    np.testing.assert_allclose(found, sum(map(float, parts)), rtol=1e-12)
    assert float(parts[1]) < -1.0


def test_a_start_from_a_file(tmp_path: Path) -> None:
    positions = np.array([[0.1, 0.2, 0.3], [2.0, 0.0, 0.0], [0.0, 2.5, 9.0]])
    lattice = np.diag([6.0, 7.0, 8.0])
    write_xyz(
        tmp_path / "start.xyz",
        [
            Structure(("B", "A", "B"), positions + shift, lattice, (True, True, True))
            for shift in (0, 1)
        ],
    )
    table = {"lattice": None, "repeats": None, "density": None, "file": "start.xyz",
             "structure": 1, "potential": {"type": "WeeksChandlerAndersen"},
             "species": [{"name": "A"}, {"name": "B", "mass": 3.0}]}  # fmt: skip
    problem = build_problem(_case(table, {"method": INNER}), tmp_path)
    np.testing.assert_array_equal(problem.positions, positions + 1)
    np.testing.assert_array_equal(problem.model.species, [1, 0, 1])
    np.testing.assert_array_equal(problem.model.masses, [3.0, 1.0, 3.0])
    np.testing.assert_array_equal(problem.box.vectors(), lattice)
    for change, sentence in (
        ({"structure": 2}, "molecules.file: .* has no structure 2, counted from 0"),
        ({"species": [{"name": "A"}]}, "The symbol 'B' is not among A"),
        ({"species": []}, "molecules.species is missing, and .* has the symbols A, B"),
    ):
        with pytest.raises(ValueError, match=sentence):
            build_problem(_case({**table, **change}, {"method": INNER}), tmp_path)
    (tmp_path / "start.xyz").write_text("2\n\nA 0 0 0\nA 1 0 nan\n")
    with pytest.raises(ValueError, match=r"molecules.file: .*start.xyz, line 4"):
        build_problem(_case({**table, "structure": 0}, {"method": INNER}), tmp_path)
    write_xyz(tmp_path / "start.xyz", Structure(("A",), positions[:1]), overwrite=True)
    barostat = {"type": "MonteCarloBarostat", **BAROSTATS["MonteCarloBarostat"]}
    with pytest.raises(ValueError, match=r"dynamics\.method needs a periodic box"):
        build_problem(_case({**table, "structure": 0}, {"method": barostat}), tmp_path)
