"""What molecular trajectories tell, and models fitted to it: `sk.molecular`.

Each name is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from simkit.molecular.block_errors import (
        autocorrelation_time as autocorrelation_time,
        block_average as block_average,
        blocking as blocking,
    )
    from simkit.molecular.displacements import (
        diffusion_coefficient as diffusion_coefficient,
        finite_size_correction as finite_size_correction,
        mean_squared_displacement as mean_squared_displacement,
    )
    from simkit.molecular.fits.averages import (
        AverageFit as AverageFit,
        FitOptions as FitOptions,
        Turn as Turn,
        fit_averages as fit_averages,
    )
    from simkit.molecular.fits.force_matching import (
        ForceMatch as ForceMatch,
        match_forces as match_forces,
    )
    from simkit.molecular.fits.relative_entropy import (
        EntropyFit as EntropyFit,
        minimise_relative_entropy as minimise_relative_entropy,
    )
    from simkit.molecular.fits.reweighting import (
        Target as Target,
    )
    from simkit.molecular.fits.sampling import (
        CanonicalSampler as CanonicalSampler,
        Configurations as Configurations,
    )
    from simkit.molecular.heat_capacities import (
        heat_capacity as heat_capacity,
        microcanonical_heat_capacity as microcanonical_heat_capacity,
    )
    from simkit.molecular.radial_distributions import (
        RadialDistribution as RadialDistribution,
        radial_distribution as radial_distribution,
    )
    from simkit.molecular.simulation import (
        MolecularRun as MolecularRun,
        simulate_molecules as simulate_molecules,
    )
    from simkit.molecular.simulation_files import (
        load_molecules as load_molecules,
        save_molecules as save_molecules,
    )
    from simkit.molecular.stress import (
        average_pressure as average_pressure,
        average_stress as average_stress,
    )
    from simkit.molecular.structure_factors import (
        StructureFactor as StructureFactor,
        fourier_matrix as fourier_matrix,
        structure_factor as structure_factor,
        structure_factor_from_distribution as structure_factor_from_distribution,
        windowed_structure_factor as windowed_structure_factor,
    )
    from simkit.molecular.values import (
        Average as Average,
        Curve as Curve,
    )
    from simkit.molecular.velocity_correlations import (
        green_kubo_diffusion as green_kubo_diffusion,
        velocity_autocorrelation as velocity_autocorrelation,
        velocity_spectrum as velocity_spectrum,
    )

_NAMES = {
    "Average": "simkit.molecular.values",
    "AverageFit": "simkit.molecular.fits.averages",
    "CanonicalSampler": "simkit.molecular.fits.sampling",
    "Configurations": "simkit.molecular.fits.sampling",
    "Curve": "simkit.molecular.values",
    "EntropyFit": "simkit.molecular.fits.relative_entropy",
    "FitOptions": "simkit.molecular.fits.averages",
    "ForceMatch": "simkit.molecular.fits.force_matching",
    "MolecularRun": "simkit.molecular.simulation",
    "RadialDistribution": "simkit.molecular.radial_distributions",
    "StructureFactor": "simkit.molecular.structure_factors",
    "Target": "simkit.molecular.fits.reweighting",
    "Turn": "simkit.molecular.fits.averages",
    "autocorrelation_time": "simkit.molecular.block_errors",
    "average_pressure": "simkit.molecular.stress",
    "average_stress": "simkit.molecular.stress",
    "block_average": "simkit.molecular.block_errors",
    "blocking": "simkit.molecular.block_errors",
    "diffusion_coefficient": "simkit.molecular.displacements",
    "finite_size_correction": "simkit.molecular.displacements",
    "fit_averages": "simkit.molecular.fits.averages",
    "fourier_matrix": "simkit.molecular.structure_factors",
    "green_kubo_diffusion": "simkit.molecular.velocity_correlations",
    "heat_capacity": "simkit.molecular.heat_capacities",
    "load_molecules": "simkit.molecular.simulation_files",
    "match_forces": "simkit.molecular.fits.force_matching",
    "mean_squared_displacement": "simkit.molecular.displacements",
    "microcanonical_heat_capacity": "simkit.molecular.heat_capacities",
    "minimise_relative_entropy": "simkit.molecular.fits.relative_entropy",
    "radial_distribution": "simkit.molecular.radial_distributions",
    "save_molecules": "simkit.molecular.simulation_files",
    "simulate_molecules": "simkit.molecular.simulation",
    "structure_factor": "simkit.molecular.structure_factors",
    "structure_factor_from_distribution": "simkit.molecular.structure_factors",
    "velocity_autocorrelation": "simkit.molecular.velocity_correlations",
    "velocity_spectrum": "simkit.molecular.velocity_correlations",
    "windowed_structure_factor": "simkit.molecular.structure_factors",
}

__all__ = [*_NAMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module 'simkit.molecular' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
