"""What a result says in numbers: statistics of ensembles, and how well a fit is determined.

Everything here stands on `simkit.results` alone, and knows neither files nor pictures.
"""

from simkit.analysis.collection import Analysis, analyse
from simkit.analysis.ensembles import analyse_ensemble, analyse_solve
from simkit.analysis.fits import analyse_fit
from simkit.analysis.identifiability import Identifiability, identifiability


__all__ = [
    "Analysis",
    "Identifiability",
    "analyse",
    "analyse_ensemble",
    "analyse_fit",
    "analyse_solve",
    "identifiability",
]
