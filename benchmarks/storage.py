"""How fast large ensembles are written and analysed, and how much memory that takes.

`python benchmarks/storage.py [--gigabytes 5] [--folder /tmp]`, or `make bench-storage`. It
measures, each in a process of its own:

- filters: ratio and speed of what every HDF5 reader decodes, on states of an ordinary and a
  stochastic ensemble;
- writing: `simkit.save` of an ensemble of that size, against plain h5py that writes the same
  chunks with the same filter from the same source; both bring the file to the disk;
- `simkit analyse`, `simkit plot` and `simkit export` on the file: time and the greatest memory;
- `simkit simulate` of ensembles of growing size: the greatest memory.

The files are taken away at the end. A line of Markdown for each is printed as it is known.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

from simkit.results import Trajectory
from simkit.store.writer import save
from simkit.stored import StoredArray, chunk_shape, member_blocks


TIMES = 2000
STATES = ("prey", "predator")
PLAIN_FILTERS = {"fletcher32": True}
_ALIKE = 2048
"""Members that differ; more of them are copies, which no filter notices."""

FILTERS = {
    "none": {},
    "checksum": {"fletcher32": True},
    "lzf + shuffle + checksum": {"compression": "lzf", "shuffle": True, "fletcher32": True},
    "gzip 1 + shuffle + checksum": {
        "compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True
    },
    "gzip 4 + shuffle + checksum": {
        "compression": "gzip", "compression_opts": 4, "shuffle": True, "fletcher32": True
    },
}  # fmt: skip

CASE = """\
schema = 1
title = "Large ensemble"
[system]
type = "LotkaVolterra"
[system.parameters]
prey_growth = 0.55
predation = 0.028
predator_death = 0.8
conversion = 0.024
[system.initial_state]
prey = 34.0
predator = 6.0
[times]
start = 0.0
stop = 20.0
save_every = 0.01
[method]
type = "Tsit5"
rtol = 1e-6
atol = 1e-6
[ensemble]
members = {members}
seed = 1
parameters = {{ prey_growth = {{ type = "log_normal", median = 0.55, sd = 0.1 }} }}
[output]
plots = true
report = true
"""


def smooth_members(members: int, times: int) -> np.ndarray:
    """States like those of an ordinary equation, of shape `(member, time)`."""
    generator = np.random.default_rng(0)
    speed = 1.0 + 0.1 * generator.standard_normal((members, 1))
    return 30.0 * np.exp(np.sin(speed * np.linspace(0.0, 20.0, times) + speed**2))


def rough_members(members: int, times: int) -> np.ndarray:
    """States like those of a stochastic equation."""
    steps = np.random.default_rng(0).standard_normal((members, times))
    return np.cumsum(0.1 * steps, axis=1)


def large_ensemble(members: int, times: int = TIMES) -> Trajectory:
    """An ensemble whose states are made as they are read, so that they take no memory."""
    base = smooth_members(min(members, _ALIKE), times)

    def read(rows: slice, at: slice) -> np.ndarray:
        return base[np.arange(rows.start, rows.stop) % base.shape[0], at]

    states = {
        name: StoredArray((members, times), base.dtype, chunk_shape(members, times), read)
        for name in STATES
    }
    return Trajectory(
        title="Large ensemble",
        system="LotkaVolterra",
        method="Tsit5",
        times=np.linspace(0.0, 20.0, times),
        states=states,  # pyright: ignore[reportArgumentType]
        status=np.full(members, "successful"),
        parameters={},
        statistics={},
    )


def write_plainly(ensemble: Trajectory, path: Path) -> None:
    """The same chunks by h5py alone."""
    with h5py.File(path, "w") as file:
        made = [
            (
                file.create_dataset(
                    name,
                    values.shape,
                    "f8",
                    chunks=chunk_shape(*values.shape),
                    **PLAIN_FILTERS,
                ),
                values,
            )
            for name, values in ensemble.states.items()
        ]
        for members in member_blocks(made[0][1], len(made)):  # pyright: ignore
            for dataset, values in made:
                dataset[members] = values.part(members, slice(None))  # pyright: ignore
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def measured(command: list[str]) -> tuple[float, float, float]:
    """Seconds, processor seconds and the greatest memory in MiB of a process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - started
    if status != 0:
        raise RuntimeError(f"{command} ended with the status {status}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def measure_filters(folder: Path) -> None:
    print("| states | filter | ratio | writing, MB/s | reading, MB/s |", flush=True)
    print("| --- | --- | --- | --- | --- |")
    for kind, values in (
        ("ordinary", smooth_members(4096, 1000)),
        ("stochastic", rough_members(4096, 1000)),
    ):
        for name, filters in FILTERS.items():
            path = folder / "filter.h5"
            began = time.process_time()
            with h5py.File(path, "w") as file:
                chunks = chunk_shape(*values.shape)
                file.create_dataset("x", data=values, chunks=chunks, **filters)
            wrote, size = time.process_time() - began, path.stat().st_size
            began = time.process_time()
            with h5py.File(path) as file:
                np.asarray(file["x"])
            read = time.process_time() - began
            speeds = [values.nbytes / 1e6 / max(each, 1e-9) for each in (wrote, read)]
            print(
                f"| {kind} | {name} | {values.nbytes / size:.2f} | {speeds[0]:.0f} | "
                f"{speeds[1]:.0f} |",
                flush=True,
            )
            path.unlink()
    print()


def measure_files(folder: Path, gigabytes: float, repeats: int) -> None:
    members = int(gigabytes * 1e9 / (8 * TIMES * len(STATES)))
    path, plain = folder / "result.h5", folder / "plain.h5"
    this = [sys.executable, __file__, "--folder", str(folder), "--members", str(members)]
    simkit = [_command()]
    print("| what | seconds | processor s | MB/s | greatest memory, MiB |")
    print("| --- | --- | --- | --- | --- |", flush=True)

    def row(what: str, command: list[str]) -> float:
        took, busy, memory = measured(command)
        rate = gigabytes * 1000 / took
        print(f"| {what} | {took:.1f} | {busy:.1f} | {rate:.0f} | {memory:.0f} |", flush=True)
        return took

    seconds: dict[str, list[float]] = {"plain": [], "save": []}
    for _ in range(repeats):
        for how, target in (("plain", plain), ("save", path)):
            target.unlink(missing_ok=True)
            os.sync()
            seconds[how].append(row(f"write, {how}", [*this, "--write", how]))
            plain.unlink(missing_ok=True)
    best = min(seconds["plain"]) / min(seconds["save"])
    print(f"| `save` against plain h5py, the best of each | {100 * best:.0f} % | | | |")
    row("`simkit analyse`", [*simkit, "analyse", str(path), "-o", str(folder / "found.h5")])
    row("`simkit plot`", [*simkit, "plot", str(path), "-o", str(folder / "figures")])
    for form, target in (("netcdf", folder / "tables.nc"), ("csv", folder / "tables")):
        words = ["export", str(path), "--format", form, "-o", str(target)]
        row(f"`simkit export --format {form}`", [*simkit, *words])
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    path.unlink()


def measure_runs(folder: Path, gigabytes: float) -> None:
    print("\n| members | states, GB | seconds | greatest memory, MiB |")
    print("| --- | --- | --- | --- |", flush=True)
    for share in (0.125, 0.5):
        size = gigabytes * share
        members = int(size * 1e9 / (8 * (TIMES + 1) * len(STATES)))
        case, output = folder / "case.toml", folder / "run"
        case.write_text(CASE.format(members=members))
        took, _, memory = measured(
            [_command(), "simulate", str(case), "-o", str(output), "--quiet"]
        )
        print(f"| {members} | {size:.2f} | {took:.1f} | {memory:.0f} |", flush=True)
        shutil.rmtree(output)


def _command() -> str:
    return str(Path(sys.executable).with_name("simkit"))


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--members", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--write", choices=["plain", "save", "filters"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write is not None:
        if given.write == "filters":
            measure_filters(given.folder)
            return
        ensemble = large_ensemble(given.members)
        if given.write == "plain":
            write_plainly(ensemble, given.folder / "plain.h5")
        else:
            save(ensemble, given.folder / "result.h5", overwrite=True)
        return
    free = shutil.disk_usage(given.folder).free
    if free < 4e9 * given.gigabytes:
        sys.exit(f"{given.folder} has {free / 1e9:.0f} GB free; this needs 4 times the size.")
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="simkit-storage-") as name:
        # In a process of its own: what this one takes would count for those it starts.
        own = [sys.executable, __file__, "--folder", name, "--write", "filters"]
        subprocess.run(own, check=True)
        measure_files(Path(name), given.gigabytes, given.repeats)
        measure_runs(Path(name), given.gigabytes)


if __name__ == "__main__":
    main()
