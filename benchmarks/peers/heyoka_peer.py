"""heyoka: Taylor's method, as many members side by side as a vector has numbers.

Members come sorted by their parameter, which is heyoka's best case: those side by side
then take about as many steps.
"""

from typing import Any

import heyoka  # pyright: ignore[reportMissingImports]
import numpy as np
from laws import LAWS
from protocol import serve


def prepare(case: dict[str, Any]) -> Any:
    members, states = case["initial"].shape
    width = heyoka.recommended_simd_size()
    variables = heyoka.make_vars(*[f"y{i}" for i in range(states)])
    parameters = [heyoka.par[i] for i in range(case["parameters"].shape[1])]
    slopes = LAWS[case["law"]](None, variables, parameters)
    solver = heyoka.taylor_adaptive_batch(
        list(zip(variables, slopes, strict=True)),
        state=np.ones((states, width)),
        pars=np.ones((len(parameters), width)),
        tol=case["tolerance"],
    )
    order = np.argsort(case["parameters"][:, 0])
    groups = np.resize(order, -(-members // width) * width).reshape(-1, width)
    start, stop = map(float, case["span"])
    found = np.empty_like(case["initial"])

    def run() -> Any:
        for group in groups:
            solver.set_time(start)
            solver.state[:] = case["initial"][group].T
            solver.pars[:] = case["parameters"][group].T
            solver.propagate_until([stop] * width)
            found[group] = solver.state.T
        return found

    return run


if __name__ == "__main__":
    serve(prepare, None)
