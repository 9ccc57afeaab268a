"""`--profile`: where the time of a run goes, and a trace for the viewers of others.

The trace is jax's own: `perfetto_trace.json.gz` and `*.trace.json.gz` open in Perfetto and in
Chrome's viewer, `*.xplane.pb` in TensorBoard and XProf. It holds every operation of a compiled
program, a million in some seconds, and the viewers show no more than the first million: so
it ends after `TRACED_SECONDS` of computing, while the clocks go on.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from simkit.config.errors import one_line


TRACED_SECONDS = 2.0
"""The trace ends after so many seconds of computing; tracing and compiling do not count."""

_LOOK_SECONDS = 0.25
_NOT_COMPUTING = tuple(
    str(Path("jax", "_src", *parts))
    for parts in (
        ("compiler.py",),
        ("interpreters", "mlir.py"),
        ("interpreters", "partial_eval.py"),
    )
)
"""Files of jax one of which is at work while a function is traced, lowered or compiled."""
_EVENTS = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
_CACHE_HIT = "/jax/compilation_cache/cache_hits"

Interval = tuple[float, float]


class Profile:
    """The clocks of one run.

    - `folder`: where the trace goes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._began = time.perf_counter()
        self._spans: dict[str, list[Interval]] = {}
        self._marks: list[tuple[str, float]] = [("start", self._began)]
        self._programs = self._cached = 0
        self._before: set[Path] = set()

    def begin(self, phase: str) -> None:
        """From now on time that is not jax's tracing or compiling belongs to this phase."""
        self._marks.append((phase, time.perf_counter()))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Within, jax tells what it traces and compiles, and the trace is written.

        jax must have its devices by then. The trace is written also where a run is stopped.
        """
        import jax
        from jax import monitoring

        if jax.process_count() > 1:  # whose files would have the same names
            self.folder /= f"process_{jax.process_index()}"
        self.begin("run")
        self._before = self._files()
        monitoring.register_event_duration_secs_listener(self._hear_duration)
        monitoring.register_event_listener(self._hear_event)
        try:
            with _tracing(self.folder):
                yield
                self.begin("end")
        finally:
            monitoring.unregister_event_duration_listener(self._hear_duration)
            monitoring.unregister_event_listener(self._hear_event)

    def summary(self) -> dict[str, Any]:
        """What was measured, as `--json` prints it.

        Seconds of wall time, which add up to `total`: `start` until jax is there; `trace` from
        Python to jaxprs, `lower` from there to StableHLO, `compile` by XLA or from the cache
        of programs; `run` what is computed; `write` the result, figures and report. Then how
        many `programs` were compiled, how many of them came `from_cache`, and the `files` of
        the trace.
        """
        seconds: dict[str, float] = dict.fromkeys(
            ("start", "trace", "lower", "compile", "run", "write"), 0.0
        )
        marks = [*self._marks, ("end", time.perf_counter())]
        ends = [when for _, when in marks[1:]]
        for (phase, begin), end in zip(marks, ends, strict=False):
            if phase == "end":
                break
            parts, covered = self._within(begin, end)
            for name, part in parts.items():
                seconds[name] += part
            seconds[phase] += end - begin - covered
        return {
            "seconds": {**seconds, "total": sum(seconds.values())},
            "programs": self._programs,
            "from_cache": self._cached,
            "files": sorted(str(path) for path in self._files() - self._before),
        }

    def _within(self, begin: float, end: float) -> tuple[dict[str, float], float]:
        """Seconds of each of jax's phases in a span of time, and of all together.

        Phases nest: a function is traced within another, and while a program is lowered. A
        moment belongs to the last of them in the order of `_EVENTS`.
        """
        parts: dict[str, float] = {}
        spans: list[Interval] = []
        covered = 0.0
        for name in reversed(_EVENTS.values()):
            spans = spans + list(self._spans.get(name, []))
            before, covered = covered, length_of_union(spans, begin, end)
            parts[name] = covered - before
        return parts, covered

    def _hear_duration(self, event: str, duration_secs: float, **details: Any) -> None:
        del details
        if event in _EVENTS:
            now = time.perf_counter()
            self._spans.setdefault(_EVENTS[event], []).append((now - duration_secs, now))
            self._programs += _EVENTS[event] == "compile"

    def _hear_event(self, event: str, **details: Any) -> None:
        del details
        self._cached += event == _CACHE_HIT

    def _files(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if path.is_file()}


def length_of_union(spans: list[Interval], begin: float, end: float) -> float:
    """How much of a span of time is covered by others, which may overlap."""
    total, reached = 0.0, begin
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if last > first:
            total, reached = total + last - first, last
    return total


def words_of(profile: dict[str, Any]) -> list[str]:
    """A summary in lines for people."""
    seconds = profile["seconds"]
    parts = ", ".join(f"{name} {seconds[name]:.2f}" for name in seconds if name != "total")
    return [
        f"Seconds: {seconds['total']:.2f} in all: {parts}; {profile['programs']} programs, "
        f"{profile['from_cache']} of them from the cache.",
        *(f"Trace:   {path}" for path in profile["files"]),
    ]


@contextlib.contextmanager
def _tracing(folder: Path) -> Iterator[None]:
    """A trace of what is done within, ended by a thread before it grows too large."""
    import jax

    options = jax.profiler.ProfileOptions()
    # Python's calls would make tracing take several times as long.
    options.python_tracer_level = 0
    jax.profiler.start_trace(folder, create_perfetto_trace=True, profiler_options=options)
    done, traced = threading.Event(), threading.get_ident()

    def watch() -> None:
        looks = 0
        while looks * _LOOK_SECONDS < TRACED_SECONDS and not done.wait(_LOOK_SECONDS):
            looks += _is_computing(traced)
        try:
            jax.profiler.stop_trace()
        except Exception as error:  # of a full disk; the result is worth more
            reason = one_line(f"{type(error).__name__}: {error}")
            click.echo(f"Warning: no trace in {folder} ({reason}).", err=True)

    watcher = threading.Thread(target=watch, name="profile", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _is_computing(thread: int) -> bool:
    """Whether a thread is in compiled programs, or elsewhere, but not making programs.

    jax tells how long it compiled when it has done so, which is too late here.
    """
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename.endswith(_NOT_COMPUTING):
            return False
        frame = frame.f_back
    return True
