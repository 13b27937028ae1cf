"""What stands around an optimizer's step: clipping, decay, the mean, accumulation, constraints."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import fastreg as fr
from fastreg import constraints, optimizers
from fastreg.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm

EXTRAS = [
    {"clipnorm": 0.05},
    {"clipvalue": 0.01},
    {"global_clipnorm": 0.1},
    {"use_ema": True, "ema_momentum": 0.8},
    {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    {"gradient_accumulation_steps": 3},
    {
        "gradient_accumulation_steps": 2,
        "global_clipnorm": 0.1,
        "use_ema": True,
        "ema_overwrite_frequency": 2,
    },
]
BASES = [
    lambda **more: fr.SGD(0.05, 0.9, weight_decay=0.1, **more),
    lambda **more: fr.Adam(0.01, weight_decay=0.1, **more),
    lambda **more: fr.RMSprop(0.01, **more),
]
CONSTRAINTS = [
    None,
    NonNeg(),
    MaxNorm(0.1),
    UnitNorm(1),
    UnitNorm([0, 1]),
    MinMaxNorm(0.2, 0.4, 0.7, -1),
    MinMaxNorm(0.3, 0.4, 0.5),
]
RNG = np.random.default_rng(3)
X = RNG.normal(size=(75, 21))
Y = np.tanh(X[:, :3]) - X[:, 3:6]
FOUR = np.tile(X, (4, 1))[:256], np.tile(Y, (4, 1))[:256]


def model(
    backend, optimizer, *, dtype="float64", kernel=None, constraint=None, units=(37, 70), **more
):
    fr.set_random_seed(7)
    bias = None if constraint is None else NonNeg() if constraint == NonNeg() else MaxNorm(0.1)
    layer = {
        "kernel_constraint": constraint,
        "bias_constraint": bias,
        "bias_regularizer": fr.L2(0.1),
    }
    kernel = fr.L1L2(1e-3, 1e-2) if kernel is None else kernel
    layers = [
        fr.Dense(units[0], "tanh", kernel_regularizer=kernel, **layer),
        fr.Dense(4, "tanh", trainable=False, **layer),
        fr.Dense(units[1], "tanh", kernel_regularizer="l2", name="third", **layer),
        fr.Dense(3, use_bias=False, kernel_regularizer=fr.L1(1e-3), kernel_constraint=constraint),
    ]
    found = fr.Sequential([fr.Input((21,), dtype=dtype), *layers], backend=backend)
    optimizer.exclude_from_weight_decay(var_names=["bias", "third/kernel"])
    found.compile(optimizer, "mse", **more)
    return found


def same(a, b, rtol):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * 1e-2 * (1e-9 + np.abs(y).max()))


def bits(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("l1_step", ["sign", "proximal", "cumulative"])
@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: "-".join(extra))
@pytest.mark.parametrize("base", range(len(BASES)))
def test_the_engine_against_its_twin(base, extra, l1_step, dtype):
    made = [
        model(backend, BASES[base](l1_step=l1_step, **extra), dtype=dtype)
        for backend in ("compiled", "reference")
    ]
    logs = [each.fit(X, Y, 8, 2, shuffle=False, verbose=0).history for each in made]
    rtol = {"float64": 1e-9, "float32": 2e-3}[dtype]
    same(*made, rtol)
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=rtol)


@pytest.mark.parametrize("extra", [{}, EXTRAS[-1]], ids=["plain", "all"])
@pytest.mark.parametrize("constraint", CONSTRAINTS[1:], ids=repr)
@pytest.mark.parametrize("units", [(37, 70), (1, 130), (64, 16)])
def test_constraints_in_the_engine_and_its_twin(constraint, extra, units):
    made = [
        model(backend, BASES[0](**extra), constraint=constraint, units=units)
        for backend in ("compiled", "reference")
    ]
    for each in made:
        each.fit(X, Y, 8, 2, shuffle=False, verbose=0)
    same(*made, 1e-9)
    kernel, frozen = made[0].layers[2].kernel, made[0].layers[1].kernel
    if extra:  # the mean of weights that are within the bounds need not be
        return
    if constraint == NonNeg():
        assert (kernel >= 0).all() and (kernel == 0).any()
        assert (frozen < 0).any()
    if constraint == UnitNorm(1):
        np.testing.assert_allclose(np.linalg.norm(kernel, axis=1), 1, rtol=1e-6)
    if constraint == MaxNorm(0.1):
        norms = np.linalg.norm(kernel, axis=0)
        assert 0.09 < norms.max() <= 0.1


@pytest.mark.parametrize("groups", ["rows", "columns", [[0, 5, 3], [1, 2]]])
@pytest.mark.parametrize("l1_step", ["sign", "proximal"])
@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: "-".join(extra))
def test_under_a_group_penalty(groups, l1_step, extra):
    kernel = fr.GroupL1(0.01, groups, l1=1e-3, l2=1e-2)
    made = [
        model(backend, BASES[1](l1_step=l1_step, **extra), kernel=kernel)
        for backend in ("compiled", "reference")
    ]
    for each in made:
        each.fit(X, Y, 8, 2, shuffle=False, verbose=0)
    same(*made, 1e-9)


def test_the_prox_is_not_clipped():
    """A bound so low that no gradient is left of it: all that moves a weight is L1."""
    for backend in ("compiled", "reference"):
        made = model(backend, fr.SGD(0.1, l1_step="proximal", clipvalue=1e-300), kernel=fr.L1(0.5))
        before = made.layers[0].kernel
        made.train_on_batch(X, Y)
        expected = np.sign(before) * np.maximum(np.abs(before) - 0.1 * 0.5, 0)
        np.testing.assert_allclose(made.layers[0].kernel, expected, rtol=1e-12, atol=1e-15)


def test_clipping_by_hand():
    """One step of SGD moves the weights by the clipped gradient."""
    for backend, (name, bound) in itertools.product(
        ("compiled", "reference"),
        [("clipvalue", 0.01), ("clipnorm", 0.05), ("global_clipnorm", 0.1)],
    ):
        plain, clipped = (model(backend, fr.SGD(1.0, **more)) for more in ({}, {name: bound}))
        w = plain.get_weights()
        plain.train_on_batch(X, Y)
        clipped.train_on_batch(X, Y)
        g = [a - b for a, b in zip(w, plain.get_weights(), strict=True)]
        total = np.sqrt(sum(np.square(each).sum() for each in g))
        assert total > bound
        for before, after, each in zip(w, clipped.get_weights(), g, strict=True):
            norm = total if name == "global_clipnorm" else np.sqrt(np.square(each).sum())
            scaled = each if norm <= bound else each * (bound / norm)
            expected = np.clip(each, -bound, bound) if name == "clipvalue" else scaled
            np.testing.assert_allclose(before - after, expected, rtol=1e-8, atol=1e-14)


def test_accumulated_batches_are_one_large_batch():
    for backend in ("compiled", "reference"):
        small = model(backend, fr.Adam(0.01, gradient_accumulation_steps=3))
        large = model(backend, fr.Adam(0.01))
        small.fit(X, Y, 25, 4, shuffle=False, verbose=0)
        large.fit(X, Y, 75, 4, shuffle=False, verbose=0)
        same(small, large, 1e-8)
        assert small.optimizer.iterations == 12


def test_the_running_mean_becomes_the_weights_at_the_end_of_fit():
    for backend in ("compiled", "reference"):
        mean = model(backend, fr.SGD(0.1, use_ema=True, ema_momentum=0.5))
        plain = model(backend, fr.SGD(0.1))
        expected = None
        for batch in range(3):
            rows = slice(25 * batch, 25 * batch + 25)
            plain.train_on_batch(X[rows], Y[rows])
            w = plain.get_weights()
            expected = (
                w
                if expected is None
                else [0.5 * a + 0.5 * b for a, b in zip(expected, w, strict=True)]
            )
        frozen = mean.layers[1].get_weights()
        mean.fit(X, Y, 25, shuffle=False, verbose=0)
        for a, b in zip(mean.get_weights(), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
        for a, b in zip(mean.layers[1].get_weights(), frozen, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: "-".join(extra))
@pytest.mark.parametrize("constraint", [None, MaxNorm(0.1), UnitNorm(1)], ids=repr)
def test_the_same_bits_on_any_number_of_threads_and_in_any_slices(extra, constraint):
    made = [
        model("compiled", BASES[1](**extra), constraint=constraint, units=(300, 200), n_threads=n)
        for n in (1, 2, 5, 2)
    ]
    for each in made[:3]:
        each.fit(FOUR[0], FOUR[1], 64, 2, shuffle=False, verbose=0)
    bits(made[0], made[1])
    bits(made[0], made[2])
    if not extra.get("use_ema"):
        for _ in range(2):
            for first in range(0, 256, 64):
                rows = slice(first, first + 64)
                made[3].train_on_batch(FOUR[0][rows], FOUR[1][rows])
        bits(made[0], made[3])


class Interrupt(fr.Callback):
    """Save after an odd number of batches, in the middle of an epoch and of an accumulation."""

    def __init__(self, path):
        super().__init__()
        self.path, self.batches = path, 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == 15:
            self.model.save(self.path)


@pytest.mark.parametrize("extra", EXTRAS, ids=lambda extra: "-".join(extra))
def test_a_checkpoint_goes_on_with_the_same_bits(extra, tmp_path):
    whole = model(
        "compiled", BASES[1](l1_step="cumulative", **extra), constraint=MinMaxNorm(0, 0.5)
    )
    whole.fit(X, Y, 8, 3, verbose=0, callbacks=[Interrupt(tmp_path / "m.safetensors")])
    again = fr.load_model(tmp_path / "m.safetensors")
    assert again.optimizer == whole.optimizer and again.optimizer.excluded
    assert again.layers[0].kernel_constraint == MinMaxNorm(0, 0.5)
    again.fit(X, Y, 8, 3, verbose=0, resume=True)
    bits(whole, again)


def test_sparse_rows_take_the_same_steps():
    sparse = pytest.importorskip("scipy.sparse")
    thin = X * (np.abs(X) > 1)
    for extra in EXTRAS:
        made = [model("compiled", BASES[0](**extra)) for _ in range(2)]
        made[0].fit(thin, Y, 8, 2, shuffle=False, verbose=0)
        made[1].fit(sparse.csr_matrix(thin), Y, 8, 2, shuffle=False, verbose=0)
        same(*made, 1e-9)


def test_a_gradient_that_is_not_finite_still_ends_the_fit():
    for extra in EXTRAS[:3]:
        made = model("compiled", fr.SGD(1e300, **extra))
        before = made.get_weights()
        with pytest.raises(FloatingPointError, match="not finite"):
            made.fit(X * 1e200, Y, 8, 30, verbose=0)
        for a, b in zip(made.get_weights(), before, strict=True):
            np.testing.assert_array_equal(a, b)


# ------------------------------------------------ the words


@pytest.mark.parametrize("cls", optimizers.REGISTRY.classes)
def test_settings_and_configuration(cls):
    for extra in EXTRAS:
        optimizer = cls(**extra)
        assert cls.from_config(optimizer.get_config()) == optimizer != cls()
        for name, value in extra.items():
            assert f"{name}={value!r}" in repr(optimizer)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert cls.from_config(optimizer.get_config()).excluded == ("bias",)
    assert "clipnorm" not in repr(cls())


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"clipnorm": 0.0}, ValueError, "clipnorm: got 0.0"),
        ({"clipvalue": -1}, ValueError, "clipvalue: got -1"),
        ({"clipvalue": 1.0, "clipnorm": 1.0}, ValueError, "got 1.0 beside .*one of them"),
        ({"use_ema": 1}, TypeError, "use_ema: got 1"),
        ({"ema_momentum": 1.5}, ValueError, "ema_momentum: got 1.5"),
        ({"ema_overwrite_frequency": 0}, ValueError, "ema_overwrite_frequency: got 0"),
        ({"gradient_accumulation_steps": 1}, ValueError, "gradient_accumulation_steps: got 1"),
        ({"gradient_accumulation_steps": 2.5}, TypeError, "gradient_accumulation_steps: got 2.5"),
    ],
)
def test_settings_out_of_range(settings, error, words):
    with pytest.raises(error, match=words):
        fr.Adam(**settings)


def test_exclusion_by_name():
    optimizer = fr.AdamW()
    for bad, error in [("bias", TypeError), ([3], ValueError), (["("], ValueError)]:
        with pytest.raises(error, match="var_names: got"):
            optimizer.exclude_from_weight_decay(var_names=bad)
    with pytest.raises(ValueError, match="var_list: got"):
        optimizer.exclude_from_weight_decay([np.zeros(3)])
    made = model("compiled", fr.SGD(0.1, weight_decay=0.1))
    made.train_on_batch(X, Y)
    with pytest.raises(ValueError, match="before the first step"):
        made.optimizer.exclude_from_weight_decay(var_names=["bias"])
    late = model("compiled", fr.SGD(0.1, weight_decay=0.1))
    late.predict(X[:2])
    late.optimizer.exclude_from_weight_decay(var_names=["kernel", "bias"])  # after compile
    plain = model("compiled", fr.SGD(0.1))
    late.train_on_batch(X, Y)
    plain.train_on_batch(X, Y)
    bits(late, plain)


@pytest.mark.parametrize("constraint", CONSTRAINTS[1:], ids=repr)
def test_constraints_as_functions_and_configurations(constraint):
    assert constraints.deserialize(constraints.serialize(constraint)) == constraint
    w = RNG.normal(size=(9, 5))
    bound = constraint.bound(w.shape)
    found = constraint(w)
    assert found.shape == w.shape and not np.array_equal(found, w)
    if bound.kind == "norm":
        axis = 1 if bound.per_row else 0 if bound.per_column else None
        norms = np.linalg.norm(w, axis=axis, keepdims=True)
        wanted = bound.rate * np.clip(norms, bound.low, bound.high) + (1 - bound.rate) * norms
        np.testing.assert_allclose(found, w * wanted / (norms + 1e-7), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MaxNorm(-1), ValueError, "max_value: got -1"),
        (lambda: MaxNorm(axis=0.5), TypeError, "axis: got 0.5"),
        (lambda: MinMaxNorm(2, 1), ValueError, "max_value: got 1"),
        (lambda: MinMaxNorm(rate=1.5), ValueError, "rate: got 1.5"),
        (lambda: constraints.get("max_nrm"), ValueError, "Did you mean 'max_norm'"),
        (lambda: fr.Dense(3, kernel_constraint=5), TypeError, "kernel_constraint: .*got 5"),
        (
            lambda: fr.Sequential([fr.Input((3,)), fr.Dense(2, bias_constraint=UnitNorm(1))]),
            ValueError,
            "bias_constraint of layer .*axis: got 1",
        ),
    ],
)
def test_bad_constraints(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_what_has_no_place_for_constraints_says_so():
    made = model("compiled", fr.SGD(0.1), constraint=NonNeg())
    with pytest.raises(ValueError, match=r"objective: layer .*has a constraint"):
        made.polish(X, Y)
