"""Measurements in long form become padded arrays, and mistakes are told."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from simkit.fitting.measurements import Measurements, Observable, measurements_from_rows


BOTH = [Observable("hare", "prey"), Observable("lynx", "predator")]
ONE = BOTH[:1]


def build(observables=ONE, **columns) -> Measurements:
    """Measurements of the hare at times 0, 1, 2 but for what is given."""
    standard = {"time": [0.0, 1.0, 2.0], "observable": ["hare"] * 3, "value": [5.0, 6.0, 7.0]}
    return measurements_from_rows(observables, **{**standard, **columns})


def test_one_group_without_a_name():
    found = build()
    assert found.groups == ("",)
    np.testing.assert_array_equal(found.times, [[0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(found.values[0, :, 0], [5.0, 6.0, 7.0])
    assert found.present.all()
    assert found.count == 3
    assert found.inputs == {}


def test_rows_in_any_order_are_sorted_by_time():
    found = build(time=[2.0, 0.0, 1.0])
    np.testing.assert_array_equal(found.times, [[0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(found.values[0, :, 0], [6.0, 7.0, 5.0])


def test_observables_share_rows_of_the_same_time():
    found = measurements_from_rows(
        BOTH,
        time=[0.0, 0.0, 1.0, 3.0],
        observable=["hare", "lynx", "lynx", "hare"],
        value=[1.0, 2.0, 3.0, 4.0],
    )
    np.testing.assert_array_equal(found.times, [[0.0, 1.0, 3.0]])
    np.testing.assert_array_equal(
        found.present[0], [[True, True], [False, True], [True, False]]
    )
    # Where nothing was measured stands a harmless one.
    np.testing.assert_array_equal(found.values[0], [[1.0, 2.0], [1.0, 3.0], [4.0, 1.0]])


def test_missing_values_are_left_out():
    found = build(value=[5.0, float("nan"), 7.0])
    np.testing.assert_array_equal(found.times, [[0.0, 2.0]])
    assert found.count == 2


def test_replicates_at_one_time_get_rows_of_their_own():
    found = measurements_from_rows(
        BOTH,
        time=[1.0, 1.0, 1.0, 1.0],
        observable=["hare", "hare", "lynx", "hare"],
        value=[1.0, 2.0, 3.0, 4.0],
    )
    np.testing.assert_array_equal(found.times, [[1.0, 1.0, 1.0]])
    np.testing.assert_array_equal(found.values[0, :, 0], [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(found.present[0, :, 1], [True, False, False])
    assert found.count == 4


def test_groups_with_different_times_are_padded_with_their_last_time():
    found = build(
        time=[0.0, 1.0, 4.0, 2.0],
        observable=["hare"] * 4,
        value=[1.0, 2.0, 3.0, 9.0],
        group=["b", "b", "b", "a"],
        inputs={"a": {"dose": 1.5}, "b": {"dose": 2.5}},
    )
    assert found.groups == ("b", "a")  # as they appear
    np.testing.assert_array_equal(found.times, [[0.0, 1.0, 4.0], [2.0, 2.0, 2.0]])
    np.testing.assert_array_equal(found.present[1, :, 0], [True, False, False])
    np.testing.assert_array_equal(found.stops, [4.0, 2.0])
    np.testing.assert_array_equal(found.inputs["dose"], [2.5, 1.5])


def test_the_spread_looks_at_what_was_measured_alone():
    found = build(
        time=[0.0, 1.0, 0.0],
        group=["a", "a", "b"],
        value=[1000.0, 1004.0, 1002.0],
    )
    assert found.spread(0) == pytest.approx(0.5 * np.std([1000.0, 1004.0, 1002.0]))


rows = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, 4),
    st.sampled_from(["hare", "lynx"]),
    st.floats(-100, 100) | st.just(float("nan")),
)


@settings(deadline=None, max_examples=100)
@given(st.lists(rows, min_size=1, max_size=25))
def test_every_measurement_is_found_again(entries):
    """Padding loses nothing and invents nothing."""
    for group in {row[0] for row in entries}:
        entries.append((group, 2, "hare", 1.0))
        entries.append((group, 3, "lynx", 2.0))
    found = measurements_from_rows(
        BOTH,
        time=[float(row[1]) for row in entries],
        observable=[row[2] for row in entries],
        value=[row[3] for row in entries],
        group=[row[0] for row in entries],
    )
    g, t, o = np.nonzero(found.present)
    back = sorted(
        (found.groups[i], found.times[i, j], ["hare", "lynx"][k], found.values[i, j, k])
        for i, j, k in zip(g, t, o, strict=True)
    )
    expected = sorted(row for row in entries if not np.isnan(row[3]))
    assert back == expected
    assert np.all(np.diff(found.times, axis=1) >= 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"observable": ["hare", "fox", "hare"]}, r"no observable 'fox'; there are \['hare'\]"),
        ({"value": [1.0, 2.0]}, r"different lengths \(time: 3, observable: 3, value: 2\)"),
        ({"group": ["a"]}, r"different lengths .*group: 1"),
        ({"time": [0.0, float("nan"), 1.0]}, "hare has the time nan, no finite number"),
        ({"time": [0.0, float("inf"), 1.0]}, "hare has the time inf, no finite number"),
        (
            {"value": [1.0, float("inf"), 1.0]},
            "hare at time 1 is inf, expected a finite number",
        ),
        ({"value": [float("nan")] * 3}, "There are no measurements in group ''"),
        (
            {"value": [1.0, 2.0, float("nan")], "group": ["a", "a", "b"]},
            "There are no measurements in group 'b'",
        ),
        ({"time": [], "observable": [], "value": []}, "There are no measurements"),
        ({"observables": BOTH}, "There are no measurements of lynx"),
        (
            {"group": ["a", "b", "b"], "inputs": {"a": {"dose": 1.0}}},
            "The input dose of group 'b' is not given",
        ),
        (
            {"observables": [Observable("hare", "prey", "gaussian")]},
            "noise of hare is 'gaussian', expected one of",
        ),
        (
            {
                "observables": [Observable("hare", "prey", "log_normal")],
                "value": [1.0, 0.0, 2.0],
            },
            "hare at time 1 is 0, expected a positive number",
        ),
        (
            {"observables": [Observable("hare", "prey", "poisson")], "value": [1.0, 2.5, 2.0]},
            "hare at time 1 is 2.5, expected a whole number",
        ),
        (
            {
                "observables": [Observable("hare", "prey", "negative_binomial")],
                "value": [1.0, -3.0, 2.0],
            },
            "hare at time 1 is -3, expected a whole number",
        ),
    ],
)
def test_mistakes_are_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        build(**change)
