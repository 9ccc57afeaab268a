"""The physical limit: vector code written by hand in C++, compiled on the spot.

The tableaux are simkit's own, written into a header, so that all take the same steps.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from solvers.ensemble.lanes.explicit import dense_program
from solvers.ensemble.scalarise.evaluate import evaluate
from solvers.integrators.deterministic import Tsit5
from solvers.integrators.rosenbrock import RODAS5P


FLAGS = ("-O3", "-march=native", "-ffast-math", "-std=c++17", "-shared", "-fPIC")


class Call(ctypes.Structure):
    """As in limit.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("initial", "parameters", "times")),
        *((name, ctypes.c_void_p) for name in ("final_state", "saved", "steps")),
        *((name, ctypes.c_int64) for name in ("members", "saves")),
        *((name, ctypes.c_double) for name in ("start", "stop", "rtol", "atol")),
    ]


def compile_limit(groups: int) -> ctypes.CDLL:
    """The library, with so many vectors side by side."""
    compiler = shutil.which("g++")
    if compiler is None:
        raise FileNotFoundError("g++ is not there.")
    source = Path(__file__).with_name("limit.cpp")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tableaux.h").write_text(header())
        library = os.path.join(folder, "limit.so")
        command = [compiler, *FLAGS, f"-DGROUPS={groups}", f"-I{folder}"]
        subprocess.run([*command, str(source), "-o", library], check=True)
        return ctypes.CDLL(library)


def header() -> str:
    """The tableaux as C++."""
    stepper: Any = Tsit5().stepper()
    tableau, dense = stepper.tableau, _polynomials(stepper, 4)
    explicit = _structure(
        "Tsit5",
        {"stages": 7, "degree": 4, "reuses_last": 1, "last_is_solution": 1, "order": 5},
        {"a": tableau.a_lower, "dense": dense},
        {"b": tableau.b_sol, "e": tableau.b_error},
        7,
    )
    rodas = _structure(
        "Rodas5P",
        {"stages": 8, "order": 5},
        {"a": RODAS5P.a, "c": RODAS5P.coupling, "dense": RODAS5P.dense},
        {"b": RODAS5P.b},
        8,
    )
    gamma = f"constexpr double rodas5p_gamma = {RODAS5P.gamma!r};\n"
    return (
        gamma
        + explicit
        + rodas.replace(
            "struct Rodas5P {",
            "struct Rodas5P {\n    static constexpr double gamma = rodas5p_gamma;",
        )
    )


def _polynomials(stepper: Any, degree: int) -> np.ndarray:
    """Coefficients of the weights of the slopes in dense output, the constant one first."""
    program = dense_program(stepper)
    nodes = 0.5 - 0.5 * np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    # The first two weights are of the states at the ends of the step.
    values = [[float(w) for w in evaluate(program, [np.asarray(x)])[2:]] for x in nodes]
    return np.linalg.solve(np.vander(nodes, increasing=True), np.asarray(values)).T


def _structure(
    name: str, wholes: dict[str, int], rows: dict[str, Any], row: dict[str, Any], width: int
) -> str:
    lines = [f"struct {name} {{"]
    lines += [f"    static constexpr int {key} = {value};" for key, value in wholes.items()]
    for key, value in rows.items():
        inner = ", ".join(_braced(line) for line in value)
        lines.append(f"    static constexpr double {key}[{len(value)}][{width}] = {{{inner}}};")
    for key, value in row.items():
        lines.append(f"    static constexpr double {key}[{width}] = {_braced(value)};")
    return "\n".join([*lines, "};", ""])


def _braced(values: Sequence[Any]) -> str:
    return "{" + ", ".join(repr(float(x)) for x in values) + "}"


def solve(
    library: ctypes.CDLL,
    name: str,
    span: tuple[float, float],
    initial: np.ndarray,
    parameters: np.ndarray,
    tolerance: float,
    times: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Final states, saved states, and how many steps the lanes took."""
    members, states = initial.shape
    initial, parameters = np.ascontiguousarray(initial), np.ascontiguousarray(parameters)
    times = np.ascontiguousarray(times)
    final, saved = np.empty((members, states)), np.empty((members, len(times), states))
    steps = ctypes.c_int64()
    call = Call(
        initial.ctypes.data,
        parameters.ctypes.data,
        times.ctypes.data,
        final.ctypes.data,
        saved.ctypes.data,
        ctypes.addressof(steps),
        members,
        len(times),
        *span,
        tolerance,
        tolerance,
    )
    getattr(library, name)(ctypes.byref(call))
    return final, saved, steps.value
