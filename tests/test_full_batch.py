"""LBFGS in compile: fit goes down to a minimum over all rows, an iteration an epoch."""

from __future__ import annotations

import numpy as np
import pytest

import fastreg as fr
from fastreg import optimizers

RNG = np.random.default_rng(11)
X = RNG.normal(size=(120, 12))
TRUTH = np.where(np.arange(12) < 4, RNG.normal(size=12), 0.0)
Y = X @ TRUTH + 0.1 * RNG.normal(size=120)
LABELS = (X @ TRUTH > 0).astype(int) + (X[:, 0] > 1)


def model(layers, loss, *, backend="compiled", dtype="float64", optimizer=None, metrics=None):
    fr.set_random_seed(3)
    found = fr.Sequential([fr.Input((12,), dtype=dtype), *layers], backend=backend)
    found.compile(optimizer or fr.LBFGS(tol=1e-9), loss, metrics=metrics)
    return found


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_ridge_is_solved(backend):
    made = model([fr.Dense(1, kernel_regularizer=fr.L2(0.1))], "mse", backend=backend)
    history = made.fit(X, Y, epochs=200, verbose=0)
    centred, mean = X - X.mean(axis=0), Y.mean()
    expected = np.linalg.solve(
        centred.T @ centred / 120 + 0.1 * np.eye(12), centred.T @ (Y - mean) / 120
    )
    np.testing.assert_allclose(made.layers[0].kernel[:, 0], expected, rtol=1e-7, atol=1e-9)
    loss = history.history["loss"]
    assert len(loss) < 200 and loss == sorted(loss, reverse=True)
    assert loss[-1] == pytest.approx(made.evaluate(X, Y, verbose=0), rel=1e-12)
    assert made.optimizer.iterations == len(loss) == len(history.epoch)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_l1_is_the_lasso_of_scikit_learn(backend):
    sklearn = pytest.importorskip("sklearn.linear_model")
    made = model([fr.Dense(1, kernel_regularizer=fr.L1(0.2))], "mse", backend=backend)
    made.fit(X, Y, epochs=500, verbose=0)
    lasso = sklearn.Lasso(0.1, tol=1e-12, max_iter=100000).fit(X, Y)
    found = made.layers[0].kernel[:, 0]
    np.testing.assert_allclose(found, lasso.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(found == 0, lasso.coef_ == 0)
    assert (found == 0).any()


def test_l1_softmax_reaches_its_optimality_conditions():
    made = model(
        [fr.Dense(3, "softmax", kernel_regularizer=fr.L1L2(0.02, 0.01))],
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    history = made.fit(X, LABELS, epochs=500, verbose=0, validation_data=(X, LABELS))
    objective = made.objective(X, LABELS)
    _, gradient = objective.smooth(objective.start)
    assert objective.residual(objective.start, gradient) < 1e-8
    assert (made.layers[0].kernel == 0).mean() > 0.2
    assert history.history["val_loss"][-1] == pytest.approx(history.history["loss"][-1])
    assert history.history["accuracy"][-1] > 0.7


def test_a_network_with_frozen_layers_and_weights_of_rows():
    layers = [
        fr.Dense(6, "tanh", kernel_regularizer="l2"),
        fr.Dense(5, "tanh", trainable=False),
        fr.Dense(1, activity_regularizer=fr.L2(1e-3)),
    ]
    made = [
        model(
            [type(each).from_config(each.get_config()) for each in layers], "mse", backend=backend
        )
        for backend in ("compiled", "reference")
    ]
    weight = RNG.uniform(0, 2, 120)
    for each in made:
        frozen = each.layers[1].kernel
        before = each.evaluate(X, Y, sample_weight=weight, verbose=0)
        each.fit(X, Y, epochs=10, verbose=0, sample_weight=weight)
        np.testing.assert_array_equal(each.layers[1].kernel, frozen)
        assert each.evaluate(X, Y, sample_weight=weight, verbose=0) < before / 2
    for a, b in zip(made[0].get_weights(), made[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_callbacks_stop_it_and_float32_keeps_its_dtype():
    class Stop(fr.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    made = model([fr.Dense(4, "tanh"), fr.Dense(1)], "mse", dtype="float32")
    history = made.fit(X, Y, epochs=50, verbose=0, callbacks=[Stop()])
    assert history.epoch == [0, 1, 2]
    assert made.get_weights()[0].dtype == np.float32
    history = made.fit(X, Y, epochs=6, verbose=0, resume=True)
    assert history.epoch[-3:] == [3, 4, 5]
    assert made.optimizer.iterations == 6


def test_saving_and_configuration(tmp_path):
    optimizer = fr.LBFGS(7, 1e-3)
    assert optimizers.deserialize(optimizers.serialize(optimizer)) == optimizer != fr.LBFGS()
    assert optimizers.get("lbfgs") == fr.LBFGS()
    assert repr(optimizer) == "LBFGS(history_size=7, tol=0.001, name='lbfgs')"
    made = model([fr.Dense(1)], "mse", optimizer=optimizer)
    made.fit(X, Y, epochs=3, verbose=0)
    made.save(tmp_path / "m.safetensors")
    again = fr.load_model(tmp_path / "m.safetensors")
    assert again.optimizer == optimizer and again.optimizer.iterations == 3
    again.fit(X, Y, epochs=5, verbose=0, resume=True)
    assert again.optimizer.iterations == 5


class ByProx:
    """Nothing, by a prox."""

    def value(self, w):
        return 0.0

    def gradient(self, w):
        return 0 * w

    def prox(self, w, step):
        return w


@pytest.mark.parametrize(
    ("layers", "options", "words"),
    [
        ([fr.Dense(1)], {"batch_size": 32}, "batch_size: got 32 of 120 rows"),
        ([fr.Dropout(0.1), fr.Dense(1)], {}, r"Dropout.*which has no noise in it"),
        ([fr.Dense(1, kernel_regularizer=fr.GroupL1(0.1))], {}, "no step for GroupL1"),
        ([fr.Dense(1, kernel_regularizer=ByProx())], {}, "no step for the prox of"),
        ([fr.Dense(1, kernel_constraint="non_neg")], {}, "has a constraint"),
    ],
)
def test_what_it_has_no_place_for(layers, options, words):
    made = model(layers, "mse")
    before = made.get_weights()
    with pytest.raises(ValueError, match=words):
        made.fit(X, Y, epochs=3, verbose=0, **options)
    with pytest.raises(ValueError, match="takes no single steps"):
        made.train_on_batch(X, Y)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bad_settings_and_a_loss_that_is_not_finite():
    with pytest.raises(ValueError, match="history_size: got 0"):
        fr.LBFGS(0)
    with pytest.raises(TypeError, match="clipnorm"):
        fr.LBFGS(clipnorm=1.0)
    made = model([fr.Dense(1)], "mse")
    made.set_weights([np.full((12, 1), 1e200), np.zeros(1)])
    with pytest.raises(FloatingPointError, match="before the first iteration"):
        made.fit(X, Y, epochs=3, verbose=0)
