"""The reference page of the Python interface, from the live objects."""

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np

from generation import signatures
from generation.docstrings import Places, cell, docstring, table
from simkit.catalogue import build_catalogue


_SECTIONS = {
    "Simulate, fit, judge": ("sk", "simulate fit uncertainty Laplace"),
    "Results": ("sk", "Trajectory Fit Uncertainty"),
    "Tables within results": (
        "simkit.results",
        "ParameterTable StartTable ObservationTable CurveTable DerivedTable Provenance",
    ),
    "Files": ("sk", "save load StoreError write_report"),
    "Cases": (
        "sk",
        "read_case check_case LoadedCase CaseError Case FitTable FreeParameter Normal "
        "LogNormal Uniform Exponential Gamma",
    ),
    "Posteriors made in Python": (
        "sk",
        "Observable measurements_from_rows Measurements build_parameters Posterior",
    ),
    "Figures": (
        "sk.plots",
        "fit data_and_fit residuals waterfall correlations trajectory phase all_figures "
        "compared_curves save_figures save write_report",
    ),
    "Solving": (
        "sk.solvers",
        "solve ensemble InitialValueProblem Solution RESULTS SolveError Replayed Forward "
        "Checkpointed Backsolve",
    ),
    "Optimisers": (
        "sk.solvers.optimisers",
        "optimise optimise_many LeastSquares Minimisation Optimum Optima Abandonment STOP "
        "OptimisationError LevenbergMarquardt TrustRegionNewton CubicNewton NewtonCG LBFGSB "
        "AdaHessian Sophia NaturalGradient Composite Optax Batches Rows SoftL1 Huber Cauchy "
        "Arctan",
    ),
    "Curvature": (
        "sk.solvers.curvature",
        "hessian jacobian hessian_operator gauss_newton_operator "
        "generalised_gauss_newton_operator fisher_operator empirical_fisher_operator as_dense "
        "diagonal trace log_determinant spectral_density extreme_eigenpairs condition_number "
        "coloured_hessian coloured_jacobian choose_derivative differentiate measure",
    ),
    "Many devices": (
        "sk.solvers.sharding",
        "use_cpu_devices make_mesh row_sum row_map value_and_gradient hessian_vector_product "
        "hessian gauss_newton columns starts",
    ),
    "Many processes": (
        "sk.solvers.distributed",
        "initialise global_rows gather find_launcher",
    ),
    "Writing systems": (
        "sk.systems",
        "AbstractSystem AbstractODE AbstractSDE AbstractHamiltonian State Input Inputs "
        "parameter NoiseKind Interpretation ParameterDeclaration parameter_declarations "
        "get_parameter replace_parameters state_names complete_inputs",
    ),
    "Molecules: models and their terms": (
        "sk.systems.molecular",
        "MolecularModel AbstractTerm PairTerm EnergyTerm ExternalTerm TailCorrection "
        "tail_energy tail_pressure Tersoff StillingerWeber EmbeddedAtom JaxMDTerm "
        "learned_potential Evaluation evaluate_pairs NeighbourList",
    ),
    "Molecules: pair energies": (
        "sk.systems.molecular",
        "AbstractPairEnergy LennardJones WeeksChandlerAndersen Buckingham Morse SoftSphere "
        "HarmonicSphere Yukawa UserPair Truncated Shifted ForceShifted Switched "
        "lorentz_berthelot geometric waldman_hagler",
    ),
    "Molecules: boxes, units, starts": (
        "sk.systems.molecular",
        "AbstractBox OpenBox OrthorhombicBox TriclinicBox deform Units REDUCED METAL REAL SI "
        "convert reduced_by lattice cubic_box random_packing mixture",
    ),
    "Molecules: dynamics": (
        "sk.solvers.molecular",
        "MolecularProblem run_dynamics Progress MolecularTrajectory joined MolecularState "
        "run_batch MolecularBatch "
        "MolecularError maxwell_boltzmann AbstractDynamics AbstractThermostat VelocityVerlet "
        "Langevin Brownian NoseHooverChain StochasticVelocityRescaling MonteCarloBarostat "
        "StochasticCellRescaling",
    ),
    "Molecules: minima and gradients": (
        "sk.solvers.molecular",
        "minimise_energy FIRE LBFGS Minimum differentiate_trajectory Reversible Checkpointed "
        "Forward TrajectoryGradient Horizon Frames",
    ),
    "Molecules: runs and files": (
        "sk.molecular",
        "simulate_molecules MolecularRun save_molecules load_molecules",
    ),
    "Molecules: observables": (
        "sk.molecular",
        "Average Curve radial_distribution RadialDistribution structure_factor StructureFactor "
        "structure_factor_from_distribution windowed_structure_factor fourier_matrix "
        "mean_squared_displacement diffusion_coefficient finite_size_correction "
        "velocity_autocorrelation velocity_spectrum green_kubo_diffusion average_pressure "
        "average_stress heat_capacity microcanonical_heat_capacity block_average blocking "
        "autocorrelation_time",
    ),
    "Molecules: fits": (
        "sk.molecular",
        "match_forces ForceMatch fit_averages AverageFit FitOptions Turn Target "
        "CanonicalSampler Configurations minimise_relative_entropy EntropyFit",
    ),
    "Molecules: structures of other programs": (
        "simkit.importers.xyz",
        "Structure read_xyz iterate_xyz write_xyz XYZError",
    ),
}
_MODULES = {
    "sk": "simkit",
    "sk.molecular": "simkit.molecular",
    "sk.plots": "simkit.plots",
    "sk.solvers": "solvers",
    "sk.solvers.curvature": "solvers.curvature",
    "sk.solvers.distributed": "solvers.distributed",
    "sk.solvers.molecular": "solvers.molecular",
    "sk.solvers.optimisers": "solvers.optimisers",
    "sk.solvers.sharding": "solvers.sharding",
    "sk.systems": "systems",
    "sk.systems.molecular": "systems.molecular",
    "simkit.importers.xyz": "simkit.importers.xyz",
    "simkit.results": "simkit.results",
}
_HEAD = """\
# Python

```python
import simkit as sk
```

`sk` is the one face: systems are in `sk.systems`, methods in `sk.solvers`, figures in
`sk.plots`. A name is imported when it is first used. `simulate`, `fit` and `uncertainty`
switch jax to double precision; nothing prints.

The [systems](systems.md) and the [methods](methods.md) have pages of their own.
"""


def python_page(places: Places) -> str:
    """The page as Markdown. Raises `ValueError` if a public name stands in no section."""
    _check_complete()
    lines = [_HEAD]
    for title, (prefix, names) in _SECTIONS.items():
        lines += [f"## {title}", ""]
        for name in names.split():
            thing = getattr(importlib.import_module(_MODULES[prefix]), name)
            _add(lines, f"{prefix}.{name}", thing, places)
    return "\n".join(lines).rstrip() + "\n"


def places() -> dict[str, str]:
    """Where each public name is described, by the dotted name of its definition."""
    found = {}
    known = build_catalogue()
    for page, entries in (("systems.md", known.systems), ("methods.md", known.methods)):
        found |= {f"{e.module}.{name}": f"{page}#{name.lower()}" for name, e in entries.items()}
    for full, thing in _described():
        module, name = getattr(thing, "__module__", ""), getattr(thing, "__qualname__", "")
        found.setdefault(f"{module}.{name}", f"python.md#{full}")
    return found


def _described() -> Iterator[tuple[str, Any]]:
    for prefix, names in _SECTIONS.values():
        for name in names.split():
            yield (
                f"{prefix}.{name}",
                getattr(importlib.import_module(_MODULES[prefix]), name),
            )


def _check_complete() -> None:
    catalogue = build_catalogue()
    known = {*catalogue.systems, *catalogue.methods, "molecular", "plots", "solvers", "systems"}
    for prefix, module in _MODULES.items():
        told = {
            name
            for owner, names in _SECTIONS.values()
            for name in names.split()
            if owner == prefix
        }
        # `simkit.results` is no face: what of it is public stands in the others.
        public = getattr(importlib.import_module(module), "__all__", [])
        missing = {*public} - told - known
        if missing:
            raise ValueError(f"docs/generation/python_face.py has no place for {missing}")


def _add(lines: list[str], full: str, thing: Any, places: Places) -> None:
    lines += [f"### {full} {{ #{full} }}", ""]
    if not isinstance(thing, type):
        if inspect.isfunction(thing):
            lines += _code(signatures.of_function(full, thing))
            lines += [docstring(thing, places), ""]
        else:  # a name for a type
            lines += _code(f"{full} = {_alias(thing)}")
        return
    results = thing.__module__ == "simkit.results"
    quiet = results or issubclass(thing, Exception) or inspect.isabstract(thing)
    if full == "sk.solvers.RESULTS":
        _add_statuses(lines, thing, places)
        return
    if not quiet and not issubclass(thing, importlib.import_module("enum").Enum):
        lines += _code(signatures.of_class(full, thing))
    lines += [docstring(thing, places), ""]
    if results:
        _add_fields(lines, thing)
    for name, member in vars(thing).items():
        _add_member(lines, full, name, member, places)


def _add_member(lines: list[str], full: str, name: str, member: Any, places: Places) -> None:
    owner = full.rpartition(".")[2]
    if isinstance(member, property):
        text = docstring(member.fget, places)
        lines += [f"**`{owner}.{name}`**", "", text, ""] if text else []
        return
    function = getattr(member, "__func__", member)
    function = inspect.unwrap(getattr(function, "method", function))
    if name.startswith("_") or not inspect.isfunction(function):
        return
    text = docstring(function, places)
    if text:
        lines += _code(signatures.of_function(f"{owner}.{name}", function))
        lines += [text, ""]


def _add_fields(lines: list[str], table_class: type) -> None:
    hints = typing.get_type_hints(table_class)
    rows = [
        [
            f"`{field.name}`",
            _field_type(hints[field.name]),
            ", ".join(field.metadata.get("dimensions", ())),
            cell(field.metadata.get("description", "")),
        ]
        for field in dataclasses.fields(table_class)
        if field.metadata.get("stored", True)
    ]
    lines += table(["field", "type", "axes", "what it is"], rows)


def _field_type(hint: Any) -> str:
    words = {
        str: "text",
        int: "whole number",
        float: "number",
        np.ndarray: "array",
        dict[str, np.ndarray]: "arrays by name",
        dict[str, str]: "texts by name",
        tuple[str, ...]: "texts",
    }
    if hint in words:
        return words[hint]
    kinds = [kind for kind in typing.get_args(hint) or (hint,) if kind is not type(None)]
    name = kinds[0].__name__
    prefix = "sk" if name in _SECTIONS["Results"][1].split() else "simkit.results"
    ending = "" if kinds[0] is hint else " or `None`"
    return f"[`{name}`](#{prefix}.{name}){ending}"


def _add_statuses(lines: list[str], results: Any, places: Places) -> None:
    from solvers.solution import describe_status, status_names

    lines += [docstring(results, places), ""]
    rows = []
    for name in status_names():
        sentence = " ".join(describe_status(name).split("\n\n")[0].split())
        rows.append([f"`{name}`", cell(sentence or "The solve reached its end.")])
    lines += table(["status", "meaning"], rows)


def _alias(thing: Any) -> str:
    return str(thing).replace("collections.abc.", "").replace("typing.", "")


def _code(text: str) -> list[str]:
    return ["```text", text, "```", ""]
