"""Losses of one's own: in every way to train, and what is refused."""

from __future__ import annotations

import copy
import pickle
import signal

import numpy as np
import pytest
from test_engine import dense

import fastreg as fr
from fastreg import _engine, losses

BACKENDS = ("compiled", "reference")


class Squared:
    """mean_squared_error once more."""

    calls = 0

    def value(self, y_true, y_pred):
        self.calls += 1
        return np.square(y_pred - y_true).mean(axis=1)

    def gradient(self, y_true, y_pred):
        return 2 * (y_pred - y_true) / y_pred.shape[1]


class Cubic:
    def value(self, y_true, y_pred):
        return np.sum(np.abs(y_pred - y_true) ** 3, axis=1)

    def gradient(self, y_true, y_pred):
        return 3 * (y_pred - y_true) * np.abs(y_pred - y_true)


def penalties():
    return {"kernel_regularizer": fr.L1L2(1e-3, 1e-2), "activity_regularizer": "l2"}


def model_with(loss, optimizer="sgd", backend="compiled", dtype="float64", layers=(), **options):
    seeded = fr.initializers.GlorotUniform
    model = fr.Sequential(
        [
            fr.Input((5,), dtype=dtype),
            fr.Dense(9, "tanh", kernel_initializer=seeded(seed=1), **penalties()),
            *layers,
            fr.Dense(3, "softplus", kernel_initializer=seeded(seed=2), **penalties()),
        ],
        backend=backend,
    )
    model.compile(optimizer, loss, **options)
    return model


def data(rng, n=45):
    return rng.normal(size=(n, 5)), rng.uniform(0, 2, (n, 3)), rng.uniform(0, 2, n)


def layers_of(kind):
    if kind == "dropout":
        return [fr.Dropout(0.3, seed=5)]
    return [fr.BatchNormalization()] if kind == "normalized" else []


@pytest.mark.parametrize("kind", ["plain", "dropout", "normalized"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", [{"momentum": 0.9}, {"clipnorm": 0.1}])
def test_the_same_steps_as_with_the_engines_own(kind, dtype, n_threads, backend, optimizer, rng):
    x, y, w = data(rng)
    fits = []
    for loss in ("mse", Squared()):
        model = model_with(
            loss, fr.SGD(0.1, **optimizer), backend, dtype, layers_of(kind), n_threads=n_threads
        )
        fr.set_random_seed(3)
        options = {"batch_size": 8, "epochs": 3, "verbose": 0, "validation_data": (x, y, w)}
        history = model.fit(x, y, sample_weight=w, **options).history
        one = model.train_on_batch(x, y, w)
        evaluated = model.evaluate(x, y, 8, 0, w, return_dict=True)
        fits.append((model.get_weights(), {**history, "one": one, **evaluated}))
    rounding = (
        {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-13}
    )
    for mine, expected in zip(*(weights for weights, _ in fits), strict=True):
        np.testing.assert_allclose(mine, expected, **rounding)
    for name, expected in fits[0][1].items():
        np.testing.assert_allclose(fits[1][1][name], expected, **rounding, err_msg=name)


def test_the_weights_have_the_same_bits_on_any_number_of_threads(rng):
    x, y, w = data(rng, 300)
    found = []
    for n_threads in (1, 2, 5):
        model = model_with(Squared(), fr.Adam(0.01), layers=layers_of("dropout"))
        model.compile(model.optimizer, Squared(), n_threads=n_threads)
        model.fit(x, y, 100, 4, sample_weight=w, shuffle=False, verbose=0)
        found.append(b"".join(each.tobytes() for each in model.get_weights()))
    assert len(set(found)) == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_metrics_penalties_of_ones_own_schedules_and_sparse_rows_go_along(backend, rng):
    from scipy.sparse import csr_array

    x, y, w = data(rng)
    x[x < 0] = 0

    class Near:
        def value(self, weights):
            return 0.1 * float(np.sum((weights - 1) ** 2))

        def gradient(self, weights):
            return 0.2 * (weights - 1)

    fits = []
    for loss in ("mse", Squared()):
        near = fr.Dense(4, kernel_initializer=fr.initializers.GlorotUniform(seed=4))
        near.kernel_regularizer = Near()
        rate = fr.optimizers.schedules.ExponentialDecay(0.05, 10, 0.5)
        model = model_with(loss, fr.SGD(rate), backend, layers=[near], metrics=["mae"])
        logs = model.fit(csr_array(x), y, 8, 2, sample_weight=w, shuffle=False, verbose=0).history
        fits.append([*model.get_weights(), *(np.array(values) for values in logs.values())])
    for expected, mine in zip(*fits, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-12)


def test_descents_over_all_rows_take_it(rng):
    x, y, w = data(rng)
    found = []
    for loss in ("mse", Squared()):
        model = model_with(loss, fr.LBFGS())
        model.fit(x, y, epochs=5, sample_weight=w, verbose=0)
        polished = model.polish(x, y, w, max_iter=30, verbose=0)
        found.append((model.evaluate(x, y, verbose=0), polished.objective, polished.kkt_residual))
        report = fr.sparsity_report(model, x, y)
        found[-1] += (report["objective"],)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9)


def test_targets_of_any_width(rng):
    """A number of columns that is not the output's: here a value and its weight."""

    class Weighted:
        def value(self, y_true, y_pred):
            return y_true[:, 1] * (y_pred[:, 0] - y_true[:, 0]) ** 2

        def gradient(self, y_true, y_pred):
            d = np.zeros_like(y_pred)
            d[:, 0] = 2 * y_true[:, 1] * (y_pred[:, 0] - y_true[:, 0])
            return d

    x, y, w = data(rng)
    model = model_with(Weighted())
    first = model.evaluate(x, np.c_[y[:, 0], w], verbose=0)
    model.fit(x, np.c_[y[:, 0], w], epochs=20, verbose=0)
    assert model.evaluate(x, np.c_[y[:, 0], w], verbose=0) < first
    with pytest.raises(ValueError, match=r"y: got shape \(44, 2\); \(45, \.\.\.\) is needed"):
        model.fit(x, np.c_[y[:, 0], w][1:], verbose=0)
    with pytest.raises(ValueError, match=r"y: got nan"):
        model.fit(x, np.full((45, 2), np.nan), verbose=0)
    model.compile("sgd", Weighted(), metrics=["mae"])
    with pytest.raises(ValueError, match=r"y: got shape \(45, 2\); metrics .* \(45, 3\)"):
        model.fit(x, np.c_[y[:, 0], w], verbose=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("method", "given", "words"),
    [
        ("value", lambda y, p: 0.0, r"value of .*Bad.*: got float64 of shape \(\).*\(45,\)"),
        ("value", lambda y, p: np.zeros((len(p), 1)), r"value of .* shape \(45, 1\)"),
        ("value", lambda y, p: ["a"] * len(p), r"value of .*: got <U1"),
        ("gradient", lambda y, p: np.zeros(len(p)), r"gradient of .* shape \(45,\).*\(45, 3\)"),
        ("gradient", lambda y, p: p.__imul__(2), "read-only"),
        ("value", lambda y, p: y.fill(0), "read-only"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(backend, method, given, words, rng):
    class Bad(Squared):
        pass

    setattr(Bad, method, staticmethod(given))
    x, y, _ = data(rng)
    model = model_with(Bad(), backend=backend)
    before = model.get_weights()
    with pytest.raises(ValueError, match=words):
        model.train_on_batch(x, y)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    assert model.optimizer.iterations == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["value", "gradient"])
def test_what_is_not_finite_stops_the_fit(backend, method, rng):
    class Bad(Squared):
        def value(self, y_true, y_pred):
            found = super().value(y_true, y_pred)
            return found * np.nan if method == "value" and self.calls == 6 else found

        def gradient(self, y_true, y_pred):
            found = super().gradient(y_true, y_pred)
            return found * np.nan if method == "gradient" and self.calls == 6 else found

    x, y, _ = data(rng)
    bad, good = model_with(Bad(), backend=backend), model_with(Squared(), backend=backend)
    good.fit(x, y, 15, 1, shuffle=False, verbose=0)
    words = r"epoch 2, step 3: the loss \(Bad\) or its gradient is not finite"
    with pytest.raises(FloatingPointError, match=words):
        bad.fit(x, y, 15, 5, shuffle=False, verbose=0)
    for a, b in zip(good.get_weights(), bad.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert bad.optimizer.iterations == 3
    bad.train_on_batch(x, y)  # and on it goes


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("method", ["value", "gradient"])
def test_ctrl_c_in_it_leaves_whole_steps(backend, method, rng):
    class Interrupted(Squared):
        def __getattribute__(self, name):
            if name == method and object.__getattribute__(self, "calls") >= 4:
                signal.raise_signal(signal.SIGINT)
            return object.__getattribute__(self, name)

    x, y, _ = data(rng)
    stopped, good = model_with(Interrupted(), backend=backend), model_with("mse", backend=backend)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, y, 15, 5, shuffle=False, verbose=0)
    steps = stopped.optimizer.iterations
    assert steps in (3, 4)
    for step in range(steps):
        rows = slice(15 * (step % 3), 15 * (step % 3) + 15)
        good.train_on_batch(x[rows], y[rows])
    for a, b in zip(good.get_weights(), stopped.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    stopped.predict(x)


def test_the_object_itself():
    found = losses.get(Squared())
    assert isinstance(found, losses.Custom) and losses.get(found) is found
    y, p, w = np.zeros((2, 2)), np.array([[1.0, 3.0], [0.0, 2.0]]), np.array([1.0, 3.0])
    assert found(y, p) == losses.MeanSquaredError()(y, p)
    assert found(y, p, w) == losses.MeanSquaredError()(y, p, w)
    np.testing.assert_array_equal(
        found.gradient(y, p, w), losses.MeanSquaredError().gradient(y, p, w)
    )
    with pytest.raises(TypeError, match="loss: got"):
        losses.get(object())
    model = fr.Sequential([fr.Input((2,)), fr.Dense(2)])
    model.compile("sgd", Squared())
    assert model.loss == "Squared"


def test_a_name_that_is_refused_does_not_stand_for_the_loss_before():
    network = _engine.Network([dense(2, 1)], "float64")
    network.set_weights([np.ones((2, 1)), np.zeros(1)])
    cubic = losses.Custom(Cubic())

    def loss(of):
        ledger = np.zeros(6)
        network.evaluate(np.ones((3, 2)), np.zeros((3, 1)), None, 0, 3, 3, of, None, ledger, 1)
        return ledger[0]

    assert loss(cubic) == 24
    with pytest.raises(ValueError, match="loss: got 'unknown'"):
        loss("unknown")
    assert loss(cubic) == 24


def test_what_is_none_of_ones_own():
    with pytest.raises(TypeError, match="own: got 3"):
        losses.Custom(3)
    with pytest.raises(TypeError, match="loss: got 3"):
        losses.deserialize({"class_name": "Custom", "config": {"own": 3}})


def test_copies_and_smaller_models_have_it(rng):
    x, y, _ = data(rng)
    model = model_with(Squared())
    weights = model.get_weights()
    weights[0][:, 2] = weights[1][2] = 0
    model.set_weights(weights)
    expected = model.evaluate(x, y, verbose=0, return_dict=True)["data_loss"]
    for other in (fr.compact(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert isinstance(other._loss.own, Squared)
        found = other.evaluate(x, y, verbose=0, return_dict=True)["data_loss"]
        assert found == pytest.approx(expected, rel=1e-12)
