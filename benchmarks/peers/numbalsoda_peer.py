"""numbalsoda: LSODA with a law compiled by Numba, on one thread."""

from typing import Any

import numba
import numpy as np
from laws import LAWS
from numbalsoda import lsoda, lsoda_sig  # pyright: ignore[reportMissingImports]
from protocol import serve


def prepare(case: dict[str, Any]) -> Any:
    law, states = numba.njit(LAWS[case["law"]]), case["initial"].shape[1]
    count, tolerance = case["parameters"].shape[1], case["tolerance"]

    carray: Any = vars(numba)["carray"]

    @numba.cfunc(lsoda_sig)
    def field(t: Any, u: Any, du: Any, p: Any) -> None:
        slope = law(t, carray(u, (states,)), carray(p, (count,)))
        for i in range(states):
            du[i] = slope[i]

    address, span = field.address, case["span"]

    @numba.njit
    def together(initial: Any, parameters: Any) -> Any:
        found = np.empty_like(initial)
        for i in range(len(initial)):
            path, _ = lsoda(
                address, initial[i], span, parameters[i], rtol=tolerance, atol=tolerance
            )
            found[i] = path[-1]
        return found

    return lambda: together(case["initial"], case["parameters"])


if __name__ == "__main__":
    serve(prepare, 1000)
