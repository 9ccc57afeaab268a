"""How a peer is asked, in a process of its own: a file of arrays in, another one out.

`python benchmarks/peers/NAME.py CASE RESULT`. The file CASE has `law`, `initial`, `parameters`
(a row for each member), `span`, `tolerance`, `repeats`. RESULT has `cpu` and `wall`, the
least seconds of the repeats, and the final `states` of the members that were solved.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


SHORT, MOST_REPEATS = 1.0, 50


def least(run: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    """The least seconds of processors (all threads) and of the clock, and a result.

    Short runs are repeated until they have taken a second together, as other programs
    disturb them most.
    """
    result = run()
    cpu, wall = [], []
    while len(cpu) < repeats or (sum(wall) < SHORT and len(cpu) < MOST_REPEATS):
        begun, used = time.perf_counter(), time.process_time()
        result = run()
        cpu.append(time.process_time() - used)
        wall.append(time.perf_counter() - begun)
    return min(cpu), min(wall), result


def serve(prepare: Callable[[dict[str, Any]], Callable[[], Any]], most: int | None) -> None:
    """Answer the one question of the command line.

    - `prepare`: from the case to what is timed, which gives the final states.
    - `most`: members that are solved at most, as more would take too long.
    """
    with np.load(sys.argv[1]) as file:
        case: dict[str, Any] = {name: file[name] for name in file.files}
    case["law"], case["tolerance"] = str(case["law"]), float(case["tolerance"])
    case["initial"] = case["initial"][:most]
    case["parameters"] = case["parameters"][:most]
    cpu, wall, states = least(prepare(case), int(case["repeats"]))
    np.savez(sys.argv[2], cpu=cpu, wall=wall, states=states)
