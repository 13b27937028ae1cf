"""The door of the models: what it converts and what it refuses, its input never changed."""

import numpy as np
import pytest

from fastreg.inputs import (
    check_class_weight,
    check_features,
    check_out,
    check_sample_weight,
    check_targets,
    check_weights,
    is_finite,
    weight_of_vectors,
)

DTYPES = ["float32", "float64"]
SPARSE = "sparse_categorical_crossentropy"
MSE = "mean_squared_error"
BCE = "binary_crossentropy"
CCE = "categorical_crossentropy"


class Frame:
    """What a data frame offers to NumPy."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)


def unaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


# Small integers are exact in every dtype.
VALUES = np.arange(12).reshape(4, 3)
FORMS = {
    "list": VALUES.tolist(),
    "frame": Frame(VALUES),
    "float32": VALUES.astype("float32"),
    "float64": VALUES.astype("float64"),
    "float16": VALUES.astype("float16"),
    "long double": VALUES.astype("longdouble"),
    "int8": VALUES.astype("int8"),
    "uint64": VALUES.astype("uint64"),
    "big endian": VALUES.astype(">f8"),
    "Fortran": np.asfortranarray(VALUES, "float32"),
    "strided": np.repeat(VALUES.astype("float32"), 2, axis=1)[:, ::2],
    "reversed": VALUES[::-1, ::-1].astype("float64")[::-1, ::-1],
    "unaligned": unaligned(VALUES.astype("float32")),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_contiguous_array(form, dtype):
    given = FORMS[form]
    copy = np.array(given)
    for got in (
        check_features("x", given, 3, dtype),
        check_targets("y", given, 4, 3, MSE, dtype),
    ):
        assert type(got) is np.ndarray
        assert got.dtype == np.dtype(dtype)
        assert got.flags.c_contiguous
        assert got.flags.aligned
        assert np.array_equal(got, VALUES)
    assert np.array_equal(np.array(given), copy)


def test_booleans_and_broadcast_rows():
    row = np.broadcast_to(np.array([True, False]), (3, 2))
    got = check_features("x", row, 2, "float32")
    assert np.array_equal(got, [[1, 0]] * 3)
    assert got.flags.c_contiguous


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_copy_when_none_is_needed(dtype):
    x = np.ones((4, 3), dtype)
    x.flags.writeable = False
    assert check_features("x", x, 3, dtype) is x
    assert check_targets("y", x, 4, 3, CCE, dtype) is x
    assert check_sample_weight("w", x[0], 3, dtype).base is x
    labels = np.array([0, 1], np.int32)
    assert check_targets("y", labels, 2, 2, SPARSE, dtype) is labels


def test_any_width_when_none_is_known():
    assert check_features("x", np.ones((2, 5)), None, "float32").shape == (2, 5)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (np.ones(3), ValueError, r"got shape \(3,\); \(n, 3\) is needed"),
        (np.ones((2, 3, 1)), ValueError, r"got shape \(2, 3, 1\)"),
        (np.ones((2, 4)), ValueError, r"got shape \(2, 4\); \(n, 3\) is needed"),
        (np.ones((0, 3)), ValueError, r"got shape \(0, 3\), which is empty"),
        ([], ValueError, r"got shape \(0,\)"),
        (5, ValueError, r"got shape \(\)"),
        ([[1, 2, 3], [4, 5]], ValueError, "unequal length"),
        ([["a", "b", "c"]], TypeError, "got dtype <U1; real numbers are needed"),
        (np.ones((2, 3), object), TypeError, r"got dtype object; .*astype\('float64'\)"),
        (np.ones((2, 3), complex), TypeError, "got dtype complex128"),
        (np.zeros((2, 3), "datetime64[s]"), TypeError, "got dtype datetime64"),
        (None, TypeError, "got NoneType; real numbers are needed$"),
        ((row for row in [[1, 2, 3]]), TypeError, "got generator; real numbers are needed$"),
        (np.ma.masked_array(np.ones((2, 3)), mask=True), TypeError, "got a masked array"),
    ],
)
def test_features_that_are_none(x, error, words):
    with pytest.raises(error, match=f"^x: .*{words}"):
        check_features("x", x, 3, "float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("given", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_refused_wherever_they_stand(bad, given, dtype):
    for place in [(0, 0), (7, 3), (299, 299)]:
        x = np.ones((300, 300), given)
        x[place] = bad
        words = rf"^x: got {bad} at row {place[0]}, column {place[1]}; finite {dtype}"
        with pytest.raises(ValueError, match=words):
            check_features("x", x, 300, dtype)
        through = check_features("x", x, 300, dtype, allow_nonfinite=True)
        assert np.array_equal(through, x.astype(dtype), equal_nan=True)
        with pytest.raises(ValueError, match=r"^y: got .* at row"):
            check_targets("y", x, 300, 300, MSE, dtype)
        with pytest.raises(ValueError, match=rf"^w: got {bad} at row {place[1]}; finite"):
            check_sample_weight("w", x[place[0]], 300, dtype)


@pytest.mark.filterwarnings("error")
def test_what_overflows_float32_is_not_finite_there():
    x = np.array([[1.0, -1e300]])
    with pytest.raises(ValueError, match=r"^x: got -inf at row 0, column 1; finite float32"):
        check_features("x", x, 2, "float32")
    assert check_features("x", x, 2, "float64") is x
    assert check_features("x", x, 2, "float32", allow_nonfinite=True)[0, 1] == -np.inf


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
def test_large_finite_values_are_finite(dtype):
    huge = np.full((2, 100_000), np.finfo(dtype).max, dtype)
    assert is_finite(huge)
    huge[1, -1] = np.nan
    assert not is_finite(huge)
    cancel = np.array([np.inf, -np.inf], dtype)
    assert not is_finite(cancel)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", [[2, 0, 1], [[2], [0], [1]], [2.0, 0.0, 1.0]])
@pytest.mark.parametrize("kind", ["<i4", ">i8", "u1", "f4", ">f8"])
def test_class_numbers_become_int32(given, kind, dtype):
    got = check_targets("y", np.array(given, kind), 3, 3, SPARSE, dtype)
    assert got.dtype == np.int32
    assert got.flags.c_contiguous
    assert np.array_equal(got, [2, 0, 1])


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0, 3], "got 3 at row 1; class numbers 0 to 2 are needed"),
        ([-1, 0], "got -1 at row 0"),
        ([0.5, 0], "got 0.5 at row 0"),
        ([0, np.nan], "got nan at row 1"),
        ([0, np.inf], "got inf at row 1"),
        (np.array([0, 2**63], np.uint64), "got 9223372036854775808 at row 1"),
        ([0, 1, 2], r"got shape \(3,\); \(2,\) is needed"),
        (np.eye(2, 3), r"got shape \(2, 3\); .*'categorical_crossentropy'"),
        ([], r"got shape \(0,\)"),
    ],
)
def test_class_numbers_out_of_range_are_refused(y, words):
    with pytest.raises(ValueError, match=f"^y: {words}"):
        check_targets("y", y, 2, 3, SPARSE, "float32")


def test_out_as_it_stands_or_new():
    x, out = np.ones((2, 3)), np.empty((2, 3))
    assert check_out(out, (2, 3), "float64", {"x": x}) is out
    assert check_out(x, (2, 3), "float64", {"x": x}, same=True) is x
    assert check_out(None, (2, 3), "float32", {"x": x}).dtype == np.float32
    with pytest.raises(ValueError, match=r"^out: got memory that overlaps x; its own is needed"):
        check_out(x, (2, 3), "float64", {"x": x})
    with pytest.raises(ValueError, match=r"^out: got memory that overlaps x"):
        check_out(x, (2, 3), "float64", {"x": x[::-1]}, same=True)
    with pytest.raises(TypeError, match=r"^out: got dtype float64; float32 is needed"):
        check_out(out, (2, 3), "float32", {"x": x})


@pytest.mark.parametrize("loss", [MSE, BCE])
def test_targets_of_one_column_may_come_flat(loss):
    for y in ([0, 1, 1], [[0], [1], [1]]):
        got = check_targets("y", y, 3, 1, loss, "float32")
        assert got.dtype == np.float32
        assert np.array_equal(got, [[0], [1], [1]])


@pytest.mark.parametrize(
    ("y", "n_out", "loss", "words"),
    [
        (np.ones((3, 2)), 3, MSE, r"got shape \(3, 2\); \(3, 3\) is needed"),
        (np.ones((2, 3)), 3, MSE, r"got shape \(2, 3\); \(3, 3\) is needed"),
        (np.ones(3), 3, MSE, r"got shape \(3,\); \(3, 3\) is needed"),
        ([0, 1, 2], 3, CCE, r"got shape \(3,\); .*'sparse_categorical_crossentropy'"),
        ([[0], [1], [2]], 3, CCE, r"got shape \(3, 1\); .*'sparse_categorical_crossentropy'"),
        ([0, 1, 2], 1, BCE, r"got 2; targets in \[0, 1\] are needed"),
        ([0, 1, -0.5], 1, BCE, r"got -0\.5; targets in \[0, 1\]"),
    ],
)
def test_targets_that_do_not_fit_the_loss(y, n_out, loss, words):
    with pytest.raises(ValueError, match=f"^y: {words}"):
        check_targets("y", y, 3, n_out, loss, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_weights(dtype):
    got = check_sample_weight("w", [1, 0, 2.5], 3, dtype)
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, [1, 0, 2.5])
    with pytest.raises(ValueError, match=r"^w: got -1 at row 1; weights >= 0"):
        check_sample_weight("w", [1, -1, 0], 3, dtype)
    with pytest.raises(ValueError, match=r"^w: got shape \(2,\); \(3,\) is needed"):
        check_sample_weight("w", [1, 1], 3, dtype)
    with pytest.raises(ValueError, match=r"^w: got shape \(3, 1\); \(3,\) is needed"):
        check_sample_weight("w", np.ones((3, 1)), 3, dtype)
    with pytest.raises(TypeError, match=r"^w: got dtype <U1"):
        check_sample_weight("w", ["a", "b", "c"], 3, dtype)


MASKED = np.ma.masked_array(np.ones((2, 3)), mask=True)


@pytest.mark.parametrize(
    ("w", "error", "words"),
    [
        (MASKED, TypeError, "w: got a masked array"),
        ([[1], [2, 3]], ValueError, "w: got no array, but rows of unequal length"),
        ([["a"] * 3] * 2, TypeError, "w: got dtype <U1"),
        (np.ones((2, 2)), ValueError, r"w: got shape \(2, 2\); \(2,\) or \(2, 3\) is needed"),
        (np.ones(3), ValueError, r"w: got shape \(3,\); \(2,\) or \(2, 3\) is needed"),
    ],
)
def test_weights_of_vectors_that_are_none(w, error, words):
    with pytest.raises(error, match=words):
        weight_of_vectors("w", w, 2, (3,))


@pytest.mark.parametrize(
    ("w", "error", "words"),
    [
        (MASKED, TypeError, r"w\[0\]: got a masked array"),
        ([[1], [2, 3]], ValueError, r"w\[0\]: got no array, but rows of unequal length"),
        ([["a"] * 3] * 2, TypeError, r"w\[0\]: got dtype <U1"),
    ],
)
def test_weights_of_layers_that_are_none(w, error, words):
    with pytest.raises(error, match=words):
        check_weights("w", [w], [(2, 3)])


@pytest.mark.parametrize(
    ("y", "loss", "n_out"),
    [
        (np.array([0, 2, 1, 2], np.int32), SPARSE, 3),
        (np.eye(3)[[0, 2, 1, 2]], CCE, 3),
        (np.eye(3)[[0, 2, 1, 2]], MSE, 3),
    ],
)
def test_class_weights_are_those_of_each_row(y, loss, n_out):
    got = check_class_weight({0: 0.5, np.int64(2): 4}, y, loss, n_out, "float32")
    assert got.dtype == np.float32
    assert np.array_equal(got, [0.5, 4, 1, 4])


def test_class_weights_of_binary_targets():
    y = np.array([[0.0], [1.0], [1.0]])
    assert np.array_equal(check_class_weight({1: 3.0}, y, BCE, 1, "float64"), [1, 3, 3])
    labels = np.array([0, 0], np.int32)
    assert np.array_equal(check_class_weight({0: 2.0}, labels, SPARSE, 1, "float64"), [2, 2])


@pytest.mark.parametrize(
    ("class_weight", "error", "words"),
    [
        ([1.0, 2.0], TypeError, "class_weight: got list; a dict"),
        ({"a": 1.0}, TypeError, "class_weight: class: got 'a'"),
        ({3: 1.0}, ValueError, "class_weight: class: got 3"),
        ({-1: 1.0}, ValueError, "class_weight: class: got -1"),
        ({1: -2.0}, ValueError, r"class_weight: weight of class 1: got -2\.0"),
        ({1: np.nan}, ValueError, "class_weight: weight of class 1: got nan"),
        ({1: None}, TypeError, "class_weight: weight of class 1: got None"),
    ],
)
def test_class_weights_that_are_none(class_weight, error, words):
    with pytest.raises(error, match="^" + words):
        check_class_weight(class_weight, np.array([0, 1, 2], np.int32), SPARSE, 3, "float32")


@pytest.mark.parametrize(("loss", "n_out"), [(MSE, 1), (BCE, 3)])
def test_class_weights_need_targets_that_name_a_class(loss, n_out):
    with pytest.raises(ValueError, match=f"^class_weight: got {loss} with {n_out} column"):
        check_class_weight({0: 1.0}, np.ones((2, n_out)), loss, n_out, "float32")
