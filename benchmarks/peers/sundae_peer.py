"""SUNDIALS CVODE through scikit-sundae: Adams, and BDF for stiff laws, a law in Python."""

from typing import Any

import numpy as np
from laws import LAWS
from protocol import serve
from sksundae.cvode import CVODE  # pyright: ignore[reportMissingImports]


def prepare(case: dict[str, Any]) -> Any:
    law, tolerance = LAWS[case["law"]], case["tolerance"]
    method = "Adams" if case["law"] == "lorenz" else "BDF"

    def one(y: Any, p: Any) -> Any:
        def field(t: float, y: Any, yp: Any) -> None:
            yp[:] = law(t, y, p)

        solver = CVODE(
            field, method=method, rtol=tolerance, atol=tolerance, max_num_steps=1_000_000
        )
        return solver.solve(case["span"], y).y[-1]

    def run() -> Any:
        pairs = zip(case["initial"], case["parameters"], strict=True)
        return np.array([one(y, p) for y, p in pairs])

    return run


if __name__ == "__main__":
    serve(prepare, 10)
