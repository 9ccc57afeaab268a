"""XYZ and extended XYZ files: round trips, files of other programs, hostile files."""

import string

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis.extra import numpy as stn

from simkit.importers.xyz import Structure, XYZError, iterate_xyz, read_xyz, write_xyz
from simkit.importers.xyz_comment import format_comment, parse_comment
from systems.molecular.boxes import OpenBox, OrthorhombicBox, TriclinicBox


SYMBOLS = st.text(string.ascii_letters + string.digits + "_-+*", min_size=1, max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
KEYS = st.text(string.ascii_letters + "_.:", min_size=1, max_size=8).filter(
    lambda key: key not in ("Lattice", "Properties", "pbc", "units")
)
WHOLE = st.integers(-(2**63), 2**63 - 1)
SHAPES = stn.array_shapes(max_dims=2, max_side=4)
# Text of several numbers or booleans reads as an array of them, which is refused.
VALUES = st.one_of(
    st.booleans(),
    st.integers(-(10**17), 10**17),
    NUMBERS,
    st.text(string.printable, max_size=20).filter(
        lambda text: (
            text.isprintable()
            and (len(text.split()) < 2 or not set(text) <= set("0123456789+-.eETFtrualsf "))
        )
    ),
    stn.arrays(np.float64, SHAPES, elements=NUMBERS),
    stn.arrays(np.int64, SHAPES, elements=st.integers(-(10**17), 10**17)),
    stn.arrays(np.bool_, SHAPES),
)
COLUMNS = {
    "charge": lambda n: stn.arrays(np.float64, n, elements=NUMBERS),
    "velo": lambda n: stn.arrays(np.float64, (n, 3), elements=NUMBERS),
    "id": lambda n: stn.arrays(np.int64, n, elements=WHOLE),
    "fixed": lambda n: stn.arrays(np.bool_, (n, 2)),
    "residue": lambda n: st.lists(SYMBOLS, min_size=n, max_size=n).map(np.asarray),
}


@st.composite
def structures(draw):
    number = draw(st.integers(1, 5))
    names = draw(st.sets(st.sampled_from(sorted(COLUMNS))))
    lattice = draw(
        st.none()
        | stn.arrays(np.float64, (3, 3), elements=st.floats(-0.3, 0.3)).map(
            lambda array: array + np.diag([2.0, 3.0, 4.0])
        )
    )
    periodic = (False,) * 3
    if lattice is not None:
        periodic = tuple(draw(st.lists(st.booleans(), min_size=3, max_size=3)))
    return Structure(
        tuple(draw(st.lists(SYMBOLS, min_size=number, max_size=number))),
        draw(stn.arrays(np.float64, (number, 3), elements=NUMBERS)),
        lattice,
        periodic,  # pyright: ignore[reportArgumentType]
        {name: draw(COLUMNS[name](number)) for name in names},
        draw(st.dictionaries(KEYS, VALUES, max_size=3)),
        units=draw(st.sampled_from([None, "metal", "real", "reduced", "SI"])),
    )


def same_value(first, second):
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.asarray(first).dtype.kind == np.asarray(second).dtype.kind and np.array_equal(
            first, second
        )
    return type(first) is type(second) and first == second


def same_structure(first, second):
    assert (first.symbols, first.periodic, first.comment, first.units) == (
        second.symbols,
        second.periodic,
        second.comment,
        second.units,
    )
    assert np.array_equal(first.positions, second.positions)
    assert same_value(first.lattice, second.lattice)
    for name in ("columns", "values"):
        one, other = getattr(first, name), getattr(second, name)
        assert set(one) == set(other)
        assert all(same_value(one[key], other[key]) for key in one)


@settings(max_examples=150, deadline=None)
@given(many=st.lists(structures(), min_size=1, max_size=3))
def test_what_is_written_reads_back_bit_for_bit(many, tmp_path_factory):
    path = tmp_path_factory.mktemp("xyz") / "some.xyz"
    write_xyz(path, many)
    found = read_xyz(path)
    assert len(found) == len(many)
    for first, second in zip(found, many, strict=True):
        same_structure(first, second)


@settings(max_examples=200, deadline=None)
@given(values=st.dictionaries(KEYS, VALUES, max_size=4))
@example(values={"a": "True", "b": "5", "c": "1e3", "d": "T", "e": ""})
def test_comments_read_back(values):
    found = parse_comment(format_comment(values))
    assert list(found) == list(values)
    assert all(same_value(found[key], values[key]) for key in values)


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60) | st.text('=" {}[]\\,TF01.e-abL:', max_size=60))
def test_any_comment_is_read_or_refused(text):
    """Never another error, and never for long."""
    try:
        parse_comment(text)
    except ValueError as error:
        assert str(error).startswith("column ")


@settings(max_examples=300, deadline=None)
@given(
    content=st.binary(max_size=80)
    | st.text('0123 \n.-eTFXYHLatice="PropsSR:', max_size=120).map(
        lambda text: ("1\n" + text).encode()
    )
)
def test_any_file_is_read_or_refused(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("xyz") / "some.xyz"
    path.write_bytes(content)
    try:
        assert read_xyz(path)
    except XYZError as error:
        assert str(error).startswith(f"{path}, line ")
        assert str(error).isprintable()


PLAIN = "2\nhydrogen\nH 0 0 0\nH 0.74 0 0\n"


def test_a_plain_file(tmp_path):
    path = tmp_path / "h2.xyz"
    path.write_text(PLAIN + "\n\n" + PLAIN.replace("H ", "D\t") + "  \n")
    first, second = iterate_xyz(path)
    assert first.symbols == ("H", "H")
    assert second.symbols == ("D", "D")
    assert first.comment == "hydrogen"
    assert first.positions.tolist() == [[0, 0, 0], [0.74, 0, 0]]
    positions, box = first.in_box()
    assert isinstance(box, OpenBox)
    assert np.array_equal(positions, first.positions)
    assert first.species(("O", "H"))[0].tolist() == [1, 1]
    with pytest.raises(ValueError, match="'H' is not among O, C"):
        first.species(("O", "C"))


# As ASE writes them, and as the reference of the format has them.
SILICON = """8
Lattice="5.44 0.0 0.0 0.0 5.44 0.0 0.0 0.0 5.44" Properties=species:S:1:pos:R:3 Time=0.0
Si        0.00000000      0.00000000      0.00000000
Si        1.36000000      1.36000000      1.36000000
Si        2.72000000      2.72000000      0.00000000
Si        4.08000000      4.08000000      1.36000000
Si        2.72000000      0.00000000      2.72000000
Si        4.08000000      1.36000000      4.08000000
Si        0.00000000      2.72000000      2.72000000
Si        1.36000000      4.08000000      4.08000000
"""
SLAB = """2
Properties=species:S:1:pos:R:3:forces:R:3:tags:I:1:move:L:1 Lattice="3 0 0 0 3 0 1 0 9" \
pbc="T T F" energy=-1.5e+2 relaxed label="a \\"b\\" c" stress=[[1, 0], [0, 2]] cell={1 2 3}
Cu 0 0 0 0.1 -0.2 0.3 1 T
O  1 1.5 2 0 0 1e-3 -2 F
"""


def test_extended_files_of_other_programs(tmp_path):
    path = tmp_path / "some.xyz"
    path.write_text(SILICON + SLAB)
    silicon, slab = read_xyz(path)
    assert silicon.periodic == (True, True, True)
    assert silicon.values == {"Time": 0.0}
    positions, box = silicon.in_box()
    assert isinstance(box, OrthorhombicBox)
    assert np.array_equal(box.lengths, [5.44] * 3)
    assert positions[5].tolist() == [4.08, 1.36, 4.08]
    assert slab.periodic == (True, True, False)
    assert slab.columns["forces"].tolist() == [[0.1, -0.2, 0.3], [0, 0, 1e-3]]
    assert slab.columns["tags"].tolist() == [1, -2]
    assert slab.columns["move"].tolist() == [True, False]
    assert slab.values["energy"] == -150.0
    assert slab.values["relaxed"] is True
    assert slab.values["label"] == 'a "b" c'
    assert slab.values["stress"].tolist() == [[1, 0], [0, 2]]
    assert slab.values["cell"].tolist() == [1, 2, 3]
    assert slab.species() == (pytest.approx([0, 1]), ("Cu", "O"))
    with pytest.raises(ValueError, match="expected all axes or none"):
        slab.in_box()


def test_a_box_of_any_orientation_keeps_its_distances(tmp_path):
    turned = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    turned *= np.sign(np.linalg.det(turned))
    lattice = np.asarray([[4.0, 0, 0], [1.0, 5.0, 0], [0.5, -1.0, 6.0]]) @ turned
    points = np.random.default_rng(5).random((4, 3)) @ lattice
    path = tmp_path / "some.xyz"
    write_xyz(path, Structure(("A",) * 4, points, lattice, (True, True, True)))
    (found,) = read_xyz(path)
    positions, box = found.in_box()
    assert isinstance(box, TriclinicBox)
    np.testing.assert_allclose(
        box.fractional(positions), points @ np.linalg.inv(lattice), atol=1e-13
    )
    assert box.volume() == pytest.approx(np.linalg.det(lattice), rel=1e-13)


BAD = {
    "": "line 1: the file is empty",
    "two\n\n": "line 1: expected a number of particles from 1, found 'two'",
    "0\n\n": "line 1: expected a number of particles from 1, found '0'",
    "-1\n\n": "line 1: expected a number of particles from 1, found '-1'",
    "9" * 15 + "\nx\nH 0 0 0\n": "line 3: the file ends after 1 of 9",
    "1" * 20 + "\n": "line 1: expected a number of particles",
    "1": "line 1: the file ends, expected a comment",
    "2\n\nH 0 0 0\n": "line 3: the file ends after 1 of 2 particles",
    "1\n\nH 0 0\n": "line 3: has 3 columns, expected 4",
    "2\n\nH 0 0 0\nH 0 x 0\n": "line 4: pos is 'x', expected real numbers",
    "2\n\nH 0 0 0\nH 0 0 nan\n": "line 4: pos is 'nan', expected real numbers",
    "1\n\nH 0 1_0 0\n": "line 3: pos is '1_0', expected real numbers",
    "1\n\nH 0 1e999 0\n": "line 3: pos is '1e999', expected real numbers",
    "1\n\nH 0 0 0\nH 0 0 0\n": "line 4: expected a number of particles",
    '1\nLattice="1 0 0 0 1 0"\nH 0 0 0\n': "line 2: Lattice is .* expected nine numbers",
    '1\nLattice="1 0 0 0 1 0 0 0 x"\nH 0 0 0\n': "line 2: Lattice is .* expected nine",
    '1\nLattice="1 0 0 0 1 0 1 1 0"\nH 0 0 0\n': "line 2: the three vectors of Lattice do not",
    '1\nLattice="1 0 0 0 1 0 0 0 1" pbc="T F"\nH 0 0 0\n': "line 2: pbc is .* three of T and F",
    '1\nProperties=species:S:1:pos:R:3 pbc="T T T"\nH 0 0 0\n': "line 2: it is periodic, but",
    "1\nProperties=species:S:1\nH 0 0 0\n": "line 2: Properties .* lack pos:R:3",
    "1\nProperties=pos:R:3:species:S\nH 0 0 0\n": "line 2: Properties are .* expected name",
    "1\nProperties=species:S:1:pos:R:3:q:X:1\nH 0 0 0 1\n": "line 2: the property q:X:1 is",
    "1\nProperties=species:S:1:pos:R:3:q:R:99999\nH 0 0 0 1\n": "line 2: the property q:R:99",
    "1\nProperties=species:S:1:pos:R:3:pos:R:3\nH 0 0 0 0 0 0\n": "name a property twice",
    "1\nProperties=species:S:1:pos:R:3:q:I:1\nH 0 0 0 1.5\n": "line 3: q is .1.5., expected",
    "1\nProperties=species:S:1:pos:R:3:q:L:1\nH 0 0 0 yes\n": "line 3: q is .yes., exp",
    "1\nProperties=species:S:1:pos:R:3:q:I:1\nH 0 0 0 9999999999999999999999\n": "line 3: q is",
    '1\nProperties=species:S:1:pos:R:3 a="1\nH 0 0 0\n': "line 2: column 34: the key",
    "1\nProperties=species:S:1:pos:R:3 a=1 a=2\nH 0 0 0\n": "line 2: column 36: the key",
    "1\nProperties=species:S:1:pos:R:3 a=[1,[2]\nH 0 0 0\n": "line 2: .* no list of numbers",
    f"1\nProperties=species:S:1:pos:R:3 a={'[' * 200000}\nH 0 0 0\n": "no list of numbers",
    "1\nProperties=species:S:1:pos:R:3 units=furlong\nH 0 0 0\n": "line 2: units are 'furlong'",
    "1\n\nH\0 0 0 0\n": "line 3: the line has zero bytes",
    "1\n" + "x" * (1 << 20) + "\nH 0 0 0\n": "line 2: the line is longer than",
}


@pytest.mark.parametrize("sentence", BAD.values())
def test_bad_files_are_refused_with_the_line(sentence, tmp_path):
    content = next(key for key, value in BAD.items() if value == sentence)
    path = tmp_path / "bad.xyz"
    path.write_text(content)
    with pytest.raises(XYZError, match=sentence) as caught:
        read_xyz(path)
    assert str(caught.value).startswith(str(path))
    assert str(caught.value).count("\n") == 0


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "bad.xyz"
    path.write_bytes(b"1\n\nH 0 0 0\n\xff\xfe\n")
    with pytest.raises(XYZError, match="line 4: the line is not text in UTF-8"):
        read_xyz(path)


POINT = np.zeros((1, 3))
UNWRITABLE = {
    "symbol 'H O' cannot be written": Structure(("H O",), POINT),
    "comment 'a.*' does not fit on one line": Structure(("H",), POINT, comment="a\nb"),
    "comment 'Lattice=.*' would read as": Structure(("H",), POINT, comment="Lattice=1"),
    "has no free comment": Structure(("H",), POINT, values={"a": 1}, comment="b"),
    "'units' has a field of its own": Structure(("H",), POINT, values={"units": "x"}),
    "column 'pos' cannot be written": Structure(("H",), POINT, columns={"pos": POINT}),
    "number inf cannot be written": Structure(("H",), POINT, columns={"q": np.full(1, np.inf)}),
    "value of 'a' cannot be written": Structure(("H",), POINT, values={"a": "1 2"}),
    "'a b' cannot be a key": Structure(("H",), POINT, values={"a b": 1}),
}


@pytest.mark.parametrize("sentence", UNWRITABLE)
def test_what_would_not_read_back_is_not_written(sentence, tmp_path):
    path = tmp_path / "some.xyz"
    with pytest.raises(ValueError, match=sentence):
        write_xyz(path, UNWRITABLE[sentence])
    assert list(tmp_path.iterdir()) == []


def test_files_are_not_replaced_unless_asked(tmp_path):
    path = tmp_path / "some.xyz"
    write_xyz(path, Structure(("H",), POINT, comment="first"))
    with pytest.raises(FileExistsError, match="exists already"):
        write_xyz(path, Structure(("H",), POINT, comment="second"))
    assert read_xyz(path)[0].comment == "first"
    write_xyz(path, Structure(("H",), POINT, comment="second"), overwrite=True)
    assert read_xyz(path)[0].comment == "second"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"positions": np.zeros((2, 3))}, r"expected \(1, 3\) for 1 symbols"),
        ({"positions": np.full((1, 3), np.nan)}, "not a finite number"),
        ({"periodic": (True, True, True)}, "periodic, but has no lattice"),
        ({"columns": {"q": np.zeros(2)}}, "column 'q' has shape"),
        ({"units": "lj"}, "units are 'lj'"),
    ],
)
def test_structures_are_checked_when_made(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Structure(**{"symbols": ("H",), "positions": POINT} | change)
