"""Result files changed at random: bytes, attributes, shapes, types, values, links."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from simkit.results import (
    CurveTable,
    DerivedTable,
    Fit,
    ObservationTable,
    ParameterTable,
    Provenance,
    StartTable,
    Trajectory,
    Uncertainty,
)


Generator = np.random.Generator
_HUGE = (2 * 10**6, 5 * 10**6)
_TEXTS = (
    "",
    "nan",
    "successful",
    "line\nbreak",
    "tab\tand\x1bescape",
    "$\\frac{",
    "<script>alert(1)</script>",
    "\u202eright to left \U0001f9ea",
    "_hidden",
    "1e999",
    "{}",
    "[]",
    '{"prey": 1}',
    '["a", 2]',
    "[" * 5000,
    "9" * 5000,
    "w" * 60_000,
)
_NUMBERS = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1.0, 5e-324, 1e-300, 1e300),
    *(1.7976931348623157e308, -1.7976931348623157e308, 2.0**53, 0.5, 1e15),
)


def small_trajectory() -> Trajectory:
    """Four times and two states of an oscillator."""
    times = np.arange(4.0)
    return Trajectory(
        title="An oscillator",
        system="HarmonicOscillator",
        method="Tsit5(rtol=1e-08, atol=1e-08)",
        times=times,
        states={"position": np.cos(times), "velocity": -np.sin(times)},
        status=np.array("successful"),
        parameters={"stiffness": np.array(1.0)},
        statistics={"steps": np.array(12)},
        state_units={"position": "m", "velocity": "m/s"},
        parameter_units={"stiffness": "N/m"},
        time_unit="s",
        provenance=Provenance(command="simkit simulate case.toml", seed=3),
    )


def small_fit() -> Fit:
    """Two parameters of a decay, one observable, three starts, five draws."""
    names = np.array(["rate", "noise.amount"])
    times = np.arange(3.0)
    predicted = np.exp(-0.5 * times)
    derived = DerivedTable(
        name=np.array(["half_life"]),
        unit=np.array(["h"]),
        estimate=np.array([1.4]),
        standard_error=np.array([0.1]),
    )

    def curves(half: float) -> CurveTable:
        bands = {} if not half else {"amount": predicted[np.newaxis] - half}
        above = {} if not half else {"amount": predicted[np.newaxis] + half}
        return CurveTable(
            group=np.array(["all"]),
            time=times[np.newaxis],
            fitted={"amount": predicted[np.newaxis]},
            lower=bands,
            upper=above,
            predictive_lower=bands,
            predictive_upper=above,
            units={"amount": "mg"},
        )

    estimate, error = np.array([0.5, 0.1]), np.array([0.04, 0.02])
    draws = estimate + error * np.random.default_rng(3).standard_normal((5, 2))
    return Fit(
        title="A decay",
        system="Decay",
        method="LevenbergMarquardt",
        reason="every noise model has residuals",
        status="converged",
        objective=-2.5,
        log_likelihood=2.5,
        gradient_norm=1e-9,
        parameters=ParameterTable(
            name=names,
            unit=np.array(["1/h", "mg"]),
            scale=np.array(["log", "log"]),
            estimate=estimate,
            standard_error=error,
            lower=np.zeros(2),
            upper=np.array([np.inf, np.inf]),
            at_bound=np.zeros(2, dtype=bool),
        ),
        covariance=np.diag(error**2),
        starts=StartTable(
            initial=np.array([[0.3, 0.2], [0.9, 0.3], [2.0, 0.1]]),
            final=np.array([estimate, estimate, [np.nan, np.nan]]),
            objective=np.array([-2.5, -2.4999999, np.nan]),
            status=np.array(["converged", "converged", "the solve failed"]),
            steps=np.array([6, 8, 1]),
            rank=np.array([0, 1, -1]),
        ),
        observations=ObservationTable(
            group=np.full(3, "all"),
            observable=np.full(3, "amount"),
            time=times,
            measured=predicted + np.array([0.1, -0.05, 0.02]),
            predicted=predicted,
            residual=np.array([1.0, -0.5, 0.2]),
            noise=np.full(3, "normal"),
        ),
        curves=curves(0.0),
        derived=derived,
        observable_units={"amount": "mg"},
        time_unit="h",
        uncertainty=Uncertainty(
            method="Laplace approximation",
            level=0.9,
            name=names.copy(),
            mean=estimate,
            standard_deviation=error,
            lower=estimate - error,
            upper=estimate + error,
            shift=np.array([0.1, 0.0]),
            correlation=np.eye(2),
            draws=draws,
            curves=curves(0.05),
            derived=derived,
        ),
        warnings=("1 of 3 starts failed.",),
        provenance=Provenance(command="simkit fit case.toml", seed=3),
    )


def mutated(content: bytes, generator: Generator, folder: Path) -> tuple[bytes, str]:
    """A result file with one to three random changes, and the changes in words.

    Three in ten are changes of bytes; the others leave sound HDF5. `folder` is a place
    for the files that links lead to.
    """
    if generator.random() < 0.3:
        change: Any = _BYTES[int(generator.integers(len(_BYTES)))]
        return change(content, generator), change.__name__
    words: list[str] = []
    image = io.BytesIO(content)
    with h5py.File(image, "r+") as file:
        for _ in range(generator.integers(1, 4)):
            change = _CHANGES[int(generator.integers(len(_CHANGES)))]
            words.append(change(file, generator, folder))
    return image.getvalue(), "; ".join(words)


def _flip_bytes(content: bytes, generator: Generator) -> bytes:
    damaged = np.frombuffer(content, dtype=np.uint8).copy()
    where = generator.integers(damaged.size, size=generator.integers(1, 20))
    damaged[where] ^= generator.integers(1, 256, where.size, dtype=np.uint8)
    return damaged.tobytes()


def _truncate(content: bytes, generator: Generator) -> bytes:
    return content[: int(generator.integers(len(content)))]


def _fill_block(content: bytes, generator: Generator) -> bytes:
    start, length = generator.integers(len(content)), generator.integers(1, 600)
    filler = bytes([int(generator.choice([0, 255]))]) * int(length)
    return (content[:start] + filler + content[start + length :])[: len(content)]


def _copy_block(content: bytes, generator: Generator) -> bytes:
    source, target = generator.integers(len(content), size=2)
    block = content[source : source + int(generator.integers(1, 600))]
    return content[:target] + block + content[target + len(block) :]


_BYTES = (_flip_bytes, _truncate, _fill_block, _copy_block)


def _places(file: h5py.File) -> list[tuple[h5py.Group, str]]:
    # Every name in the file with its group; a group that holds itself is entered once.
    root: Any = file["/"]
    found, waiting, seen = [], [root], {root.id}
    while waiting:
        group = waiting.pop()
        for name in map(str, group):
            found.append((group, name))
            link = group.get(name, getlink=True)
            item = group[name] if isinstance(link, h5py.HardLink) else None
            if isinstance(item, h5py.Group) and item.id not in seen:
                seen.add(item.id)
                waiting.append(item)
    return found


def _any_place(file: h5py.File, generator: Generator) -> tuple[h5py.Group, str]:
    places = _places(file)
    root: Any = file["/"]
    return places[int(generator.integers(len(places)))] if places else (root, "none")


def _any_dataset(file: h5py.File, generator: Generator) -> tuple[h5py.Group, str, Any]:
    found = [
        (group, name, group[name])
        for group, name in _places(file)
        if isinstance(group.get(name, getlink=True), h5py.HardLink)
        and isinstance(group[name], h5py.Dataset)
    ]
    return found[int(generator.integers(len(found)))]


def _anything(generator: Generator) -> Any:
    text = _TEXTS[int(generator.integers(len(_TEXTS)))]
    value = _NUMBERS[int(generator.integers(len(_NUMBERS)))]
    kinds: list[Callable[[], Any]] = [
        lambda: text,
        lambda: text,
        lambda: np.float64(value),
        lambda: np.int64(generator.integers(-3, 4)),
        lambda: np.int64(2**62),
        lambda: np.array([value, 1.0]),
        lambda: np.bytes_(b"\xff\xfe bytes"),
        lambda: h5py.Empty("f8"),
        lambda: np.array(["a", "b"], dtype=object),
        lambda: np.array(value + 1j),
    ]
    return kinds[int(generator.integers(len(kinds)))]()


def _change_attribute(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    objects = [file["/"], *(
        group[name]
        for group, name in _places(file)
        if isinstance(group.get(name, getlink=True), h5py.HardLink)
    )]  # fmt: skip
    pairs = [(item, name) for item in objects for name in item.attrs]
    item, name = pairs[int(generator.integers(len(pairs)))]
    if generator.random() < 0.2:
        del item.attrs[name]
        return f"no attribute {name} of {item.name}"
    value = _anything(generator)
    try:
        item.attrs[name] = value
    except (OSError, RuntimeError):  # larger than an attribute can be
        item.attrs[name] = "?"
    return f"attribute {name} of {item.name} {str(value)[:40]!r}"


def _change_values(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    _, _, dataset = _any_dataset(file, generator)
    what = f"values of {dataset.name}"
    chunk = np.prod(dataset.chunks or 1, dtype=float)
    if dataset.is_virtual or dataset.external:
        return f"{what} left"
    if dataset.shape is None or dataset.size == 0 or max(dataset.size, chunk) > 10**4:
        return f"{what} left"
    values = dataset[()] if dataset.ndim else np.array(dataset[()])
    many = generator.random(values.shape) < generator.choice([0.2, 1.0])
    if h5py.check_string_dtype(dataset.dtype) is not None:
        text = _TEXTS[int(generator.integers(len(_TEXTS)))]
        # As objects, as h5py writes texts of fixed length nowhere.
        values = np.where(many, np.array(text, dtype=object), values.astype(object))
    elif values.dtype.kind == "f":
        number = _NUMBERS[int(generator.integers(len(_NUMBERS)))]
        with np.errstate(over="ignore"):
            values = np.where(many, np.array(number).astype(values.dtype), values)
    elif values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        new = generator.choice([limits.min, limits.max, 0, 1, 7])
        values = np.where(many, values.dtype.type(new), values)
    dataset[...] = values
    return what


def _replace(file: h5py.File, generator: Generator, folder: Path) -> str:
    # Another shape or type under the name of a dataset.
    del folder
    group, name, old = _any_dataset(file, generator)
    shape = old.shape or ()
    shapes = [(), (1,), (0,), (*shape, 1), shape[:-1], tuple(n + 1 for n in shape)]
    new_shape = shapes[int(generator.integers(len(shapes)))]
    kinds = ["f8", ">f4", "f2", "i8", "u8", "i1", "?", "c16", "S3", "U", "V", "E", "R", "old"]
    kind = str(generator.choice(kinds))
    attributes = {
        key: old.attrs[key] for key in ("units", "long_name", "dtype") if key in old.attrs
    }
    del group[name]
    if kind == "U":
        text = _TEXTS[int(generator.integers(len(_TEXTS)))]
        values = np.full(new_shape, text, dtype=object)
        new = group.create_dataset(name, data=values, dtype=h5py.string_dtype())
    elif kind == "V":
        new = group.create_dataset(name, data=np.zeros(new_shape, dtype=[("a", "f8")]))
    elif kind == "E":
        new = group.create_dataset(name, data=h5py.Empty("f8"))
    elif kind == "R":
        new = group.create_dataset(name, new_shape, dtype=h5py.ref_dtype)
    else:
        dtype = old.dtype if kind == "old" else np.dtype(kind)
        new = group.create_dataset(name, new_shape, dtype=dtype)
    for key, value in attributes.items():
        new.attrs[key] = value
    return f"{group.name}/{name} of shape {new_shape} and kind {kind}"


def _make_huge(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    group, name, old = _any_dataset(file, generator)
    shape = _HUGE[: max(1, old.ndim)] if old.ndim > 1 else (10**13,)
    del group[name]
    group.create_dataset(name, shape, old.dtype, chunks=(100,) * len(shape), compression="gzip")
    return f"{group.name}/{name} of 10^13 elements"


def _make_bomb(file: h5py.File, generator: Generator, folder: Path) -> str:
    # A chunk that is far larger than what is in it.
    del folder
    group, name, old = _any_dataset(file, generator)
    del group[name]
    group.create_dataset(
        name, (3,), "f8", maxshape=(None,), chunks=(2**28,), compression="gzip"
    )
    del old
    return f"{group.name}/{name} with a chunk of 2 GiB"


def _delete(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    group, name = _any_place(file, generator)
    if name in group:
        del group[name]
    return f"no {group.name}/{name}"


def _exchange(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    group, name = _any_place(file, generator)
    other, second = _any_place(file, generator)
    target = other.get(second)
    if target is None or not isinstance(other.get(second, getlink=True), h5py.HardLink):
        return "nothing"
    del group[name]
    group[name] = target
    return f"{group.name}/{name} is now {other.name}/{second}"


def _link(file: h5py.File, generator: Generator, folder: Path) -> str:
    group, name = _any_place(file, generator)
    if group.get(name, getlink=True) is not None:
        del group[name]
    link = [
        lambda: h5py.SoftLink(f"{group.name}/{name}"),
        lambda: h5py.SoftLink("/"),
        lambda: h5py.ExternalLink(str(folder / "other.h5"), "/"),
        lambda: file["/"],
    ][int(generator.integers(4))]()
    group[name] = link
    return f"{group.name}/{name} is {link}"


def _elsewhere(file: h5py.File, generator: Generator, folder: Path) -> str:
    group, name, old = _any_dataset(file, generator)
    shape = old.shape or ()
    del group[name]
    if generator.random() < 0.5 or not shape:
        storage = [(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)]
        group.create_dataset(name, shape or (1,), "f8", external=storage)
        return f"{group.name}/{name} in another file"
    layout = h5py.VirtualLayout(shape, "f8")
    layout[...] = h5py.VirtualSource(str(folder / "nowhere.h5"), "values", shape)
    group.create_virtual_dataset(name, layout)
    return f"{group.name}/{name} virtual"


def _add(file: h5py.File, generator: Generator, folder: Path) -> str:
    del folder
    group, _ = _any_place(file, generator)
    name = str(generator.choice(["new", "%ZZ", "%2F%00", "é\u202e", "time ", "w" * 300, "_x"]))
    if name not in group:
        group[name] = np.zeros(tuple(generator.integers(0, 4, generator.integers(3))))
    return f"{group.name}/{name} added"


_CHANGES: tuple[Callable[[h5py.File, Generator, Path], str], ...] = (
    *(_change_attribute, _change_attribute, _change_values, _change_values, _change_values),
    *(_replace, _replace, _replace, _make_huge, _make_bomb, _delete, _exchange, _link),
    *(_elsewhere, _add),
)
