"""SciPy: the method DOP853, and LSODA for stiff laws, with a law in Python."""

from typing import Any

import numpy as np
from laws import LAWS
from protocol import serve
from scipy.integrate import solve_ivp


def prepare(case: dict[str, Any]) -> Any:
    law, tolerance = LAWS[case["law"]], case["tolerance"]
    method = "DOP853" if case["law"] == "lorenz" else "LSODA"

    def run() -> Any:
        pairs = zip(case["initial"], case["parameters"], strict=True)
        return np.array(
            [
                solve_ivp(
                    law, case["span"], y, method, args=(p,), rtol=tolerance, atol=tolerance
                ).y[:, -1]
                for y, p in pairs
            ]
        )

    return run


if __name__ == "__main__":
    serve(prepare, 10)
