"""Ensembles by compiled kernels: the steps of diffrax, and no member costs another anything."""

import ctypes
import gc
import os
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec


pytest.importorskip("llvmlite", reason="kernels need llvmlite (the extra `native`)")

from solvers.ensemble.law import EngineRefusal, Law, Question
from solvers.ensemble.native import compile as compiling, worker
from solvers.ensemble.native.call import kernel_p, run
from solvers.ensemble.native.kernels import kernel_for, plan_for
from solvers.ensemble.native.ptx import ptx_text
from solvers.ensemble.native.registry import Kernel, handler, registry
from solvers.ensemble.reference import run_reference
from solvers.integrators.deterministic import Dopri8, Tsit5
from solvers.integrators.dop853 import DOP853
from solvers.integrators.rosenbrock import Rodas5P
from solvers.integrators.stiff import Kvaerno5
from solvers.integrators.stochastic import (
    EulerMaruyama,
    Milstein,
    StratonovichHeun,
    StratonovichMilstein,
)
from solvers.solution import status_names


MEMBERS = 11
FIELDS = ("saved", "final_time", "final_state", "status", "accepted", "rejected")


@pytest.fixture(autouse=True, scope="module")
def _own_cache(tmp_path_factory):
    """Object files of these tests, for them alone."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("kernels")
        patch.setenv("SIMKIT_KERNEL_CACHE", str(folder))
        yield folder


def _van_der_pol(t, y, varied, shared):
    force = varied[0] * (1 - y[0] ** 2) * y[1] + shared[0] * jnp.sin(t)
    return jnp.stack([y[1], force - y[0]])


LAW = Law(_van_der_pol, None, 2, 1, 1, 0, True, 2)


def _question(start, stop, times, members=MEMBERS):
    stiffness = np.exp(np.random.default_rng(0).uniform(0, 2, (members, 1)))
    return Question(
        jnp.full(members, start),
        jnp.full(members, stop),
        jnp.tile(jnp.array([2.0, 0.0]), (members, 1)),
        jnp.asarray(stiffness),
        jnp.array([0.3]),
        jnp.asarray(times),
    )


def _take(question, index):
    return Question(
        question.start[index],
        question.stop[index],
        question.initial_states[index],
        question.varied[index],
        question.shared,
        question.times,
        None if question.keys is None else question.keys[index],
    )


def _same(found, right):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name), name)


def _agree(found, right, tolerance=1e-9):
    for name in ("status", "accepted", "rejected"):
        np.testing.assert_array_equal(getattr(found, name), getattr(right, name), name)
    for name in ("saved", "final_time", "final_state"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(right, name), tolerance, tolerance, err_msg=name
        )


SPREAD = np.sort(np.random.default_rng(1).uniform(0, 5, (MEMBERS, 4)), axis=1)


@pytest.mark.parametrize(
    ("method", "span", "times"),
    [
        (Tsit5(), (0.0, 5.0), SPREAD),
        (Dopri8(), (0.0, 5.0), [0.0, 1.0, 1.0, 4.5]),
        (DOP853(), (0.0, 5.0), [0.0, 1.0, 1.0, 4.5]),
        (Rodas5P(), (0.3, 0.0), [0.25, 0.0]),
    ],
    ids=["own times", "steps on saves", "two errors", "stiff and backwards"],
)
def test_steps_and_states_are_those_of_diffrax(method, span, times):
    start, stop = span
    question = _question(start, stop, times)
    right = jax.jit(lambda q: run_reference(LAW, method, q))(question)
    _agree(jax.jit(lambda q: run(LAW, method, q))(question), right)
    assert (right.accepted > 0).all()


def test_constant_steps_in_both_directions():
    exact = Tsit5(rtol=1e-11, atol=1e-11)
    for start, stop in ((0.0, 0.5), (0.5, 0.0)):
        question = _question(start, stop, [start, 0.25, stop])
        found = jax.jit(lambda q: run(LAW, Tsit5(step=0.03), q))(question)
        assert (found.accepted == 17).all() and (found.rejected == 0).all()
        right = jax.jit(lambda q: run(LAW, exact, q))(question)
        np.testing.assert_allclose(found.saved, right.saved, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found.final_time, stop)


@pytest.mark.parametrize(
    "method", [Tsit5(), Rodas5P(), Dopri8(), DOP853()], ids=["5", "5P", "8", "853"]
)
def test_code_for_large_laws_gives_the_same(method, monkeypatch):
    question = _question(0.0, 3.0, [0.0, 1.0, 3.0])
    right = jax.jit(lambda q: run(LAW, method, q))(question)
    monkeypatch.setattr(worker, "MOST_UNROLLED", 0)
    _agree(jax.jit(lambda q: run(LAW, method, q))(question), right, 1e-12)


def test_sixty_states_and_blocks_that_do_not_control_the_steps():
    def ring(t, y, varied, shared):
        x, s = y[:30], y[30:]

        def slope(x):
            return (jnp.roll(x, -1) - jnp.roll(x, 2)) * jnp.roll(x, 1) - x + varied[0]

        return jnp.concatenate([slope(x), jax.jvp(slope, (x,), (s,))[1]])

    law = Law(ring, None, 60, 1, 0, 0, True, 30)
    initial = np.zeros((9, 60))
    initial[:, 0], initial[:, 31] = 1.0, 1.0
    question = Question(
        jnp.zeros(9),
        jnp.ones(9),
        jnp.asarray(initial),
        jnp.linspace(7, 9, 9)[:, None],
        jnp.zeros(0),
        jnp.array([0.5, 1.0]),
    )
    found = jax.jit(lambda q: run(law, Tsit5(), q))(question)
    assert (found.status == 0).all()
    # The sensitivities are derivatives for fixed steps: compare with differences of states
    # whose steps hardly differ.
    size = 1e-6
    moved = [
        jax.jit(lambda q: run(law, Tsit5(rtol=1e-10, atol=1e-12), q))(
            Question(
                question.start,
                question.stop,
                question.initial_states.at[:, 1].add(sign * size),
                question.varied,
                question.shared,
                question.times,
            )
        ).saved[:, :, :30]
        for sign in (1, -1)
    ]
    slope = (moved[0] - moved[1]) / (2 * size)
    np.testing.assert_allclose(found.saved[:, :, 30:], slope, rtol=2e-4, atol=2e-4)


def _blow_up(t, y, varied, shared):
    return varied[0] * y**2


def test_a_poisoned_member_costs_no_other_anything():
    law = Law(_blow_up, None, 1, 1, 0, 0, True, 1)
    method = Tsit5(max_steps=60)
    members = 1000
    rates = np.linspace(0.1, 0.9, members)[:, None]
    question = Question(
        jnp.zeros(members),
        jnp.ones(members),
        jnp.ones((members, 1)),
        jnp.asarray(rates),
        jnp.zeros(0),
        jnp.array([0.5, 1.0]),
    )
    solve = jax.jit(lambda q: run(law, method, q))
    clean = solve(question)
    assert (clean.status == 0).all()
    np.testing.assert_allclose(clean.final_state, 1 / (1 - rates), rtol=1e-4)
    rates[3], rates[500], rates[501], rates[999] = np.nan, 2.0, 1e12, 0.0
    start = np.zeros(members)
    start[999] = 1.0  # of no length
    poisoned = Question(
        jnp.asarray(start),
        question.stop,
        question.initial_states,
        jnp.asarray(rates),
        question.shared,
        question.times,
    )
    found = solve(poisoned)
    names = np.array(status_names())[np.asarray(found.status)]
    assert names[3] == "nonfinite_start"
    assert names[500] in ("step_size_underflow", "max_steps_reached")
    assert names[501] in ("step_size_underflow", "max_steps_reached")
    assert names[999] == "successful" and found.final_state[999] == 1.0
    assert np.isnan(found.saved[3]).all() and found.final_time[3] == 0
    assert np.isnan(found.saved[500, 1]) and found.final_time[500] < 0.6
    good = np.setdiff1d(np.arange(members), [3, 500, 501, 999])
    for name in FIELDS:
        np.testing.assert_array_equal(
            np.asarray(getattr(found, name))[good], np.asarray(getattr(clean, name))[good]
        )


def test_results_do_not_depend_on_threads_order_or_neighbours():
    question = _question(0.0, 4.0, [1.0, 4.0], members=200)
    solve = jax.jit(lambda q: run(LAW, Tsit5(), q))
    try:
        handler().set_threads(1)
        one = solve(question)
        handler().set_threads(3)
        _same(solve(question), one)
        order = np.random.default_rng(2).permutation(200)
        mixed = solve(_take(question, order))
        for name in FIELDS:
            np.testing.assert_array_equal(
                getattr(mixed, name), np.asarray(getattr(one, name))[order]
            )
        alone = solve(_take(question, slice(17, 18)))
        np.testing.assert_array_equal(alone.final_state[0], one.final_state[17])
    finally:
        handler().set_threads(2)


def test_batches_and_shards_are_more_members_and_threads_share_a_kernel():
    question = _question(0.0, 4.0, [1.0, 4.0], members=8)
    solve = jax.jit(lambda q: run(LAW, Tsit5(), q))
    right = solve(question)
    axes = {"initial_states": 0, "shared": 0, "times": 0}
    for name in axes:
        stacked = jnp.stack([getattr(question, name)] * 3)

        def with_part(part, name=name):
            parts = {field: getattr(question, field) for field in question.__dataclass_fields__}
            return run(LAW, Tsit5(), Question(**{**parts, name: part}))

        batched = jax.jit(jax.vmap(with_part))(stacked)
        _same(jax.tree.map(lambda x: x[2], batched), right)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("members",))
    rows, whole = PartitionSpec("members"), PartitionSpec()
    leaves = [rows, rows, rows, rows, whole, whole]
    specs = jax.tree.unflatten(jax.tree.structure(question), leaves)
    sharded = jax.jit(
        jax.shard_map(
            lambda q: run(LAW, Tsit5(), q), mesh=mesh, in_specs=(specs,), out_specs=rows
        )
    )
    _same(sharded(question), right)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda i: solve(question), range(12)):
            _same(found, right)


def _brownian_motion(members, words=2):
    keys = np.random.default_rng(3).integers(0, 2**32, (members, words), dtype=np.uint32)
    return Question(
        jnp.zeros(members),
        jnp.ones(members),
        jnp.ones((members, 1)),
        jnp.tile(jnp.array([0.5, 0.8]), (members, 1)),
        jnp.zeros(0),
        jnp.array([0.505, 1.0]),
        jnp.asarray(keys),
    )


GEOMETRIC = Law(
    lambda t, y, varied, shared: varied[0] * y,
    lambda t, y, varied, shared: varied[1] * y,
    1, 2, 0, 1, True, 1,
)  # fmt: skip


def test_stochastic_paths_have_the_right_moments_and_depend_on_their_key_alone():
    members = 4000
    question = _brownian_motion(members)
    sigma = 0.8 / np.sqrt(members)
    ends = {}
    for method in (
        EulerMaruyama(step=0.01),
        Milstein(step=0.01),
        StratonovichHeun(step=0.01),
        StratonovichMilstein(step=0.01),
    ):
        solve = jax.jit(lambda q, method=method: run(GEOMETRIC, method, q))
        found = solve(question)
        assert (found.status == 0).all() and (found.accepted == 100).all()
        ends[type(method)] = np.log(np.asarray(found.final_state)[:, 0])
        drift = 0.5 if "Stratonovich" in type(method).__name__ else 0.5 - 0.32
        assert abs(ends[type(method)].mean() - drift) < 4 * sigma
        assert abs(ends[type(method)].std() - 0.8) < 0.05
        np.testing.assert_array_equal(found.saved[:, 1], found.final_state)
        order = np.random.default_rng(4).permutation(members)
        mixed = solve(_take(question, order))
        np.testing.assert_array_equal(mixed.saved, np.asarray(found.saved)[order])
    # All follow the same Wiener path; the exact solution of the two calculi differ by a rate.
    strong = np.abs(ends[StratonovichHeun] - ends[StratonovichMilstein]).mean()
    assert strong < 0.01
    weak = np.abs(ends[Milstein] + 0.32 - ends[StratonovichMilstein]).mean()
    euler = np.abs(ends[EulerMaruyama] + 0.32 - ends[StratonovichMilstein]).mean()
    assert weak < 0.01 < euler < 0.1


def test_noise_that_is_not_diagonal_has_the_right_covariance():
    loading = np.array([[0.5, 0.0, 0.3], [0.0, 0.4, 0.1]])
    law = Law(
        lambda t, y, varied, shared: -y,
        lambda t, y, varied, shared: jnp.asarray(loading),
        2, 0, 0, 3, False, 2,
    )  # fmt: skip
    question = _brownian_motion(4000, words=4)
    question = Question(
        question.start,
        question.stop * 2,
        jnp.zeros((4000, 2)),
        jnp.zeros((4000, 0)),
        question.shared,
        question.times,
        question.keys,
    )
    found = jax.jit(lambda q: run(law, EulerMaruyama(step=0.01), q))(question)
    right = loading @ loading.T * (1 - np.exp(-4)) / 2
    np.testing.assert_allclose(np.cov(found.final_state.T), right, atol=0.012)


SCRIPT = """
    import jax
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    import jax.numpy as jnp
    from solvers.ensemble.law import Law, Question
    from solvers.ensemble.native import compile as compiling
    from solvers.ensemble.native.call import run
    from solvers.integrators.deterministic import Tsit5

    law = Law(lambda t, y, v, s: -v * y, None, 1, 1, 0, 0, True, 1)
    question = Question(
        jnp.zeros(3), jnp.ones(3), jnp.ones((3, 1)), jnp.ones((3, 1)), jnp.zeros(0), jnp.ones(1)
    )
    found = jax.jit(lambda q: run(law, Tsit5(), q))(question)
    print(dict(compiling.counts), [float(x).hex() for x in found.final_state[:, 0]])
"""


def test_the_next_process_finds_kernels_and_programs_again(tmp_path):
    environment = {
        **os.environ,
        "SIMKIT_KERNEL_CACHE": str(tmp_path / "kernels"),
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "programs"),
        "XLA_FLAGS": "",
    }
    seen = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        seen.append(done.stdout)
        programs = sorted(path.name for path in (tmp_path / "programs").glob("*lambda*-cache"))
    # One kernel and the handler.
    assert seen[0].startswith("{'compiled': 2}")
    assert seen[1].startswith("{'found': 2}")
    assert seen[0].split("}")[1] == seen[1].split("}")[1]
    assert len(programs) == 1


def test_damaged_object_files_are_made_anew(_own_cache):
    text = "define i64 @seven() {\n  ret i64 7\n}\n"
    before = set(_own_cache.iterdir())
    code = compiling.object_code(text)
    (path,) = set(_own_cache.iterdir()) - before
    path.write_bytes(path.read_bytes()[:-9])
    compiled = compiling.counts["compiled"]
    again = compiling.object_code(text)
    assert compiling.counts["compiled"] == compiled + 1
    machine = compiling.Machine(again)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(machine.address("seven"))() == 7
    machine.close()
    assert len(again) == len(code)


def test_kernels_are_freed_when_no_program_names_them():
    def fresh(t, y, varied, shared):
        return -1.25 * y * varied[0]

    registry.forget()
    jax.clear_caches()
    gc.collect()
    before = registry.alive()
    law = Law(fresh, None, 1, 1, 0, 0, True, 1)
    question = Question(
        jnp.zeros(3),
        jnp.ones(3),
        jnp.ones((3, 1)),
        jnp.ones((3, 1)),
        jnp.zeros(0),
        jnp.ones(1),
    )
    solve = jax.jit(lambda q: run(law, Tsit5(), q)).lower(question).compile()
    registry.forget()
    jax.clear_caches()
    gc.collect()
    assert registry.alive() == before + 1
    np.testing.assert_allclose(solve(question).final_state, np.exp(-1.25), rtol=1e-5)
    del solve
    gc.collect()
    assert registry.alive() == before


def test_a_program_whose_kernel_is_gone_is_an_error():
    question = _question(0.0, 1.0, [1.0])
    operands = jax.tree.leaves(question)
    keys, settings = jnp.zeros((MEMBERS, 0), jnp.uint32), jnp.zeros(4)
    with pytest.raises(jax.errors.JaxRuntimeError, match="not in this process"):
        jax.block_until_ready(
            kernel_p.bind(*operands, keys, settings, kernel=Kernel("none", 12345))
        )


def test_a_kernel_runs_in_the_child_of_a_fork():
    """Called directly, as jax itself does not survive a fork."""
    law = Law(lambda t, y, v, s: -v * y, None, 1, 1, 0, 0, True, 1)
    kernel = kernel_for(law, Tsit5())
    address = registry.address(kernel)
    arrays = [np.zeros(1), np.ones(1), np.ones(1), np.ones(1), np.zeros(0), np.ones(1)]
    arrays += [np.zeros(0, np.uint32), np.array([1e-6, 1e-9, 0, 100.0])]
    out = [np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1, np.int32)]
    out += [np.zeros(1, np.int64), np.zeros(1, np.int64)]
    sizes = [1, 1, 0, 0, 0]
    call = np.array([x.ctypes.data for x in (*arrays, *out)] + sizes, np.int64)
    function = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        function(call.ctypes.data)
        os._exit(0 if abs(out[2][0] - np.exp(-1)) < 1e-5 else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_it_cannot_serve_is_said(monkeypatch):
    question = _question(0.0, 1.0, [1.0])
    with pytest.raises(EngineRefusal, match="no kernel for the method Kvaerno5"):
        run(LAW, Kvaerno5(), question)
    single = jax.tree.map(lambda x: x.astype(jnp.float32), question)
    with pytest.raises(EngineRefusal, match="double precision"):
        run(LAW, Tsit5(), single)

    def endless(t, y, varied, shared):
        return jax.lax.while_loop(lambda x: x[0] < 3, lambda x: 2 * x, y)

    with pytest.raises(EngineRefusal, match="while"):
        run(Law(endless, None, 2, 1, 1, 0, True, 2), Tsit5(), question)
    monkeypatch.setitem(sys.modules, "llvmlite", None)
    with pytest.raises(EngineRefusal, match=r"pip install simkit-jax\[native\]"):
        run(LAW, Tsit5(), question)


@pytest.mark.parametrize("method", [Tsit5(), Rodas5P()], ids=["explicit", "implicit"])
def test_the_same_kernel_becomes_text_for_a_gpu(method):
    try:
        text = ptx_text(plan_for(LAW, method))
    except EngineRefusal as refusal:
        pytest.skip(str(refusal))
    assert ".visible .entry simkit_entry(" in text
    assert ".target sm_90" in text
    assert "fma.rn.f64" in text and "atom." in text
    # All that is called from outside is of libdevice.
    called = {line.split()[-1] for line in text.splitlines() if ".extern .func" in line}
    assert all(name.startswith("__nv_") for name in called)
