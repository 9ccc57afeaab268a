"""torchode: Tsitouras's method on PyTorch, with steps of its own for each member."""

from typing import Any

import torch  # pyright: ignore[reportMissingImports]
import torchode  # pyright: ignore[reportMissingImports]
from laws import LAWS
from protocol import serve


def prepare(case: dict[str, Any]) -> Any:
    law, tolerance = LAWS[case["law"]], case["tolerance"]
    initial, parameters = (torch.tensor(case[name]) for name in ("initial", "parameters"))

    def field(t: Any, y: Any) -> Any:
        return torch.stack(law(t, y.unbind(1), parameters.unbind(1)), 1)

    term = torchode.ODETerm(field)
    method = torchode.Tsit5(term=term)
    controller = torchode.IntegralController(atol=tolerance, rtol=tolerance, term=term)
    solver = torchode.AutoDiffAdjoint(method, controller)
    times = torch.tensor(case["span"]).expand(len(initial), 2).contiguous()
    problem = torchode.InitialValueProblem(initial, times[:, 0], times[:, 1], t_eval=times)

    def run() -> Any:
        with torch.no_grad():
            return solver.solve(problem).ys[:, -1].numpy()

    return run


if __name__ == "__main__":
    serve(prepare, None)
