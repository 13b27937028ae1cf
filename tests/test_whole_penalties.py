"""Penalties of another formula: OrthogonalRegularizer, and objects of one's own."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg as fr
from fastreg import regularizers
from fastreg.regularizers import OrthogonalRegularizer
from fastreg.schedules import CosineDecay

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 9))
Y = np.tanh(X[:, :2]) + X[:, 2:4]


class Smooth:
    """sum of log(cosh(w - c)), and L1 as a prox."""

    def __init__(self, strength, prox=False):
        self.strength = strength
        if prox:
            self.prox = lambda w, step: np.sign(w) * np.maximum(np.abs(w) - step * strength, 0)

    def value(self, w):
        return self.strength * np.sum(np.log(np.cosh(w - 0.1)))

    def gradient(self, w):
        return self.strength * np.tanh(w - 0.1)


class OwnL2:
    """What the engine does itself, in Python."""

    def __init__(self, l2):
        self.l2 = l2

    def value(self, w):
        return self.l2 * np.sum(np.square(w))

    def gradient(self, w):
        return 2 * self.l2 * w


def model(backend, optimizer, kernel, bias=None, dtype="float64", **more):
    fr.set_random_seed(7)
    layers = [
        fr.Dense(33, "tanh", kernel_regularizer=kernel, bias_regularizer=bias, **more),
        fr.Dropout(0.2, seed=3),
        fr.Dense(5, "tanh", kernel_regularizer=kernel, trainable=False),
        fr.Dense(2, kernel_regularizer="l1"),
    ]
    found = fr.Sequential([fr.Input((9,), dtype=dtype), *layers], backend=backend)
    found.compile(optimizer, "mse")
    return found


@pytest.mark.parametrize(
    "regularizer", [OrthogonalRegularizer(0.3), OrthogonalRegularizer(0.3, "columns")]
)
@pytest.mark.parametrize("shape", [(2, 2), (5, 7), (7, 5)])
def test_orthogonal_gradient_by_central_differences(regularizer, shape):
    w = RNG.normal(size=shape)
    w[1] *= 1e-9 if regularizer.mode == "rows" else 1  # a norm that is cut at 1e-7
    found, expected = regularizer.gradient(w), np.zeros(shape)
    for at in np.ndindex(*shape):
        step = 1e-6 * max(abs(w[at]), 1e-10)
        up, down = w.copy(), w.copy()
        up[at] += step
        down[at] -= step
        expected[at] = (regularizer(up) - regularizer(down)) / (up[at] - down[at])
    np.testing.assert_allclose(
        found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max() * 1e-3
    )


def test_orthogonal_by_hand():
    assert OrthogonalRegularizer(2.0)(np.eye(4)) == 0
    same = np.ones((3, 2))
    assert OrthogonalRegularizer(2.0)(same) == pytest.approx(2.0)
    np.testing.assert_allclose(OrthogonalRegularizer(2.0).gradient(same), 0, atol=1e-15)
    for bad in (np.ones((1, 3)), np.ones(3)):
        with pytest.raises(ValueError, match="w: got shape"):
            OrthogonalRegularizer()(bad)
    with pytest.raises(ValueError, match="mode: got 'row'"):
        OrthogonalRegularizer(mode="row")
    read = regularizers.deserialize(regularizers.serialize(OrthogonalRegularizer(0.5, "columns")))
    assert read == OrthogonalRegularizer(0.5, "columns")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: fr.SGD(0.05, 0.9),
        lambda: fr.Adam(CosineDecay(0.02, 20), l1_step="proximal"),
        lambda: fr.Adam(0.01, clipnorm=0.05, use_ema=True),
        lambda: fr.SGD(0.05, gradient_accumulation_steps=2),
    ],
)
@pytest.mark.parametrize("kernel", [Smooth(0.01), OrthogonalRegularizer(0.5)], ids=["own", "orth"])
def test_the_engine_and_its_twin(kernel, optimizer, dtype):
    made = [
        model(
            backend,
            optimizer(),
            kernel,
            Smooth(0.02),
            dtype,
            kernel_constraint=fr.constraints.MaxNorm(2),
        )
        for backend in ("compiled", "reference")
    ]
    logs = [
        each.fit(X, Y, 16, 3, shuffle=False, verbose=0, validation_data=(X, Y)).history
        for each in made
    ]
    rtol = {"float64": 1e-9, "float32": 1e-3}[dtype]
    for a, b in zip(made[0].get_weights(), made[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())
    for name in logs[0]:
        np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=rtol)
    first = made[0].layers[0]
    penalties = made[0].evaluate(X, Y, verbose=0, return_dict=True)
    last = fr.L1(0.01)(made[0].layers[3].kernel)
    whole = first.kernel_regularizer(first.kernel)
    assert penalties["kernel_penalty"] == pytest.approx(whole + last, rel=1e-5)
    assert penalties["bias_penalty"] == pytest.approx(Smooth(0.02).value(first.bias), rel=1e-5)


def test_an_own_l2_is_the_engines_l2():
    for optimizer in (lambda: fr.SGD(0.05, 0.9), lambda: fr.Adam(0.01, global_clipnorm=0.05)):
        own, engine = (
            model("compiled", optimizer(), OwnL2(0.1)),
            model("compiled", optimizer(), fr.L2(0.1)),
        )
        logs = [each.fit(X, Y, 16, 3, shuffle=False, verbose=0).history for each in (own, engine)]
        for a, b in zip(own.get_weights(), engine.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
        for name in logs[0]:
            np.testing.assert_allclose(logs[0][name], logs[1][name], rtol=1e-10)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_a_prox_of_ones_own_is_the_engines_prox(backend):
    class OwnL1(Smooth):
        def value(self, w):
            return self.strength * np.abs(w).sum()

    def sgd():
        return fr.SGD(CosineDecay(0.1, 30), 0.5, l1_step="proximal")

    own, engine = model(backend, sgd(), OwnL1(0.05, True)), model("compiled", sgd(), fr.L1(0.05))
    for each in (own, engine):
        each.fit(X, Y, 16, 6, shuffle=False, verbose=0)
    for a, b in zip(own.get_weights(), engine.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)
        np.testing.assert_array_equal(a == 0, b == 0)
    assert (own.layers[0].kernel == 0).any()
    with pytest.raises(ValueError, match=r"l1_step: got 'proximal' of Adam.*needs SGD"):
        model(backend, fr.Adam(l1_step="proximal"), OwnL1(0.05, True)).fit(X, Y, verbose=0)


def test_polish_takes_them_into_account():
    made = model("compiled", "sgd", Smooth(0.1))
    before = made.evaluate(X, Y, verbose=0)
    assert made.polish(X, Y, tol=1e-4, max_iter=3000).converged
    assert made.evaluate(X, Y, verbose=0) < before
    objective = made.objective(X, Y)
    w, step = objective.start, 1e-6
    value, gradient = objective.smooth(w)
    assert value + objective.penalty(w) == pytest.approx(made.evaluate(X, Y, verbose=0), rel=1e-12)
    for at in (0, 17, 200):
        moved = w.copy()
        moved[at] += step
        assert (objective.smooth(moved)[0] - value) / step == pytest.approx(gradient[at], abs=1e-5)


class Broken(Smooth):
    """A gradient that does not fit."""

    def __init__(self, gradient=None, value=None):
        super().__init__(1.0)
        self.found, self.worth = gradient, value

    def value(self, w):
        return super().value(w) if self.worth is None else self.worth

    def gradient(self, w):
        return super().gradient(w) if self.found is None else self.found


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_what_does_not_fit_changes_nothing(backend):
    for broken, error, words in [
        (
            Broken(gradient=np.zeros(3)),
            ValueError,
            r"gradient of .*Broken.*got float64 of shape \(3,\)",
        ),
        (Broken(gradient="no"), ValueError, "gradient of .*Broken"),
        (Broken(gradient=[[1], [2, 3]]), ValueError, "gradient of .*Broken.*unequal length"),
        (Broken(value=np.zeros(2)), ValueError, r"value of .*got float64 of shape \(2,\); a real"),
        (Broken(value="no"), ValueError, "value of .*Broken.*a real number is needed"),
        (Broken(value=1j), ValueError, "value of .*Broken.*a real number is needed"),
        (Broken(value=float("nan")), FloatingPointError, "not finite"),
    ]:
        made = model(backend, "adam", broken)
        before = made.get_weights()
        with pytest.raises(error, match=words):
            made.train_on_batch(X, Y)
        for a, b in zip(before, made.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert made.optimizer.iterations == 0


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("method", ["value", "gradient"])
@pytest.mark.parametrize("of", ["kernel_regularizer", "bias_regularizer", "activity_regularizer"])
def test_an_object_of_ones_own_cannot_write_to_what_it_is_given(of, method, backend):
    own = Smooth(0.1)
    setattr(own, method, lambda w: w.fill(0))
    made = fr.Sequential([fr.Input((4,)), fr.Dense(2, **{of: own})], backend=backend)
    made.compile("sgd", "mse")
    before = made.get_weights()
    with pytest.raises(ValueError, match="read-only"):
        made.train_on_batch(np.ones((3, 4)), np.ones((3, 2)))
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_said_and_refused(tmp_path, capsys):
    made = model("compiled", "sgd", Smooth(0.1))
    made.summary()
    said = capsys.readouterr().out
    assert "slower steps: the penalty of dense" in said and "/kernel" in said
    with pytest.raises(ValueError, match=r"bias_regularizer: got Orthogonal.*for kernels"):
        fr.Dense(3, bias_regularizer=OrthogonalRegularizer())
    with pytest.raises(ValueError, match=r"activity_regularizer: got Orthogonal.*for kernels"):
        fr.Dense(3, activity_regularizer=OrthogonalRegularizer())
    model("compiled", "sgd", "l2").summary()
    assert "slower" not in capsys.readouterr().out
    saved = model("compiled", "sgd", OrthogonalRegularizer(0.2))
    saved.save(tmp_path / "m.safetensors")
    read = fr.load_model(tmp_path / "m.safetensors")
    assert read.layers[0].kernel_regularizer == OrthogonalRegularizer(0.2)


def test_nobody_predicts_with_weights_that_are_half_changed():
    """The short way of a prediction is closed while a step stands between its halves."""

    class Asks(OwnL2):
        def gradient(self, w):
            asked.append(made.network.answer(X[:1], None))
            return super().gradient(w)

    asked = []
    made = model("compiled", "sgd", Asks(0.1))
    assert made.network.answer(X[:1], None) is not None
    made.train_on_batch(X, Y)
    assert asked == [None]
    assert made.network.answer(X[:1], None) is not None
