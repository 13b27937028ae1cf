"""L1 that lands on zero: the minimum it reaches, the zeros it leaves, and what noise undoes."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

import fastreg as fr
from fastreg import functional, reference

FACES = {"compiled": functional, "reference": reference}
L1_STEPS = ("proximal", "cumulative")


class Descent:
    """One weight vector under an optimizer, by the functions of a face."""

    def __init__(self, face, w, kind, l1_step, l1, learning_rate):
        self.face, self.w, self.l1, self.iteration = face, w, l1, 0
        self.name, settings = KINDS[kind]
        self.settings = {**settings, "learning_rate": learning_rate, "l1_step": l1_step}
        self.slots = face.optimizer_slots(self.name, w, **self.settings)

    def step(self, dw):
        options = {"iteration": self.iteration, "l1": self.l1, **self.settings}
        self.face.optimizer_update(self.name, self.w, dw, self.slots, **options)
        self.iteration += 1


KINDS = {
    "sgd": ("sgd", {}),
    "momentum": ("sgd", {"momentum": 0.9}),
    "nesterov": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "adam": ("adam", {}),
    "amsgrad": ("adam", {"amsgrad": True}),
    "adamax": ("adamax", {}),
    "nadam": ("nadam", {}),
    "rmsprop": ("rmsprop", {"rho": 0.99}),
    "rmsprop momentum": ("rmsprop", {"rho": 0.99, "momentum": 0.9}),
    "adagrad": ("adagrad", {}),
}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_minimum_is_that_of_the_loss_with_l1(kind, l1_step, face):
    """(w - c)' H (w - c) / 2 + l1 |w| with diagonal H: the solution is S(c, l1 / H)."""
    curvature, center, l1 = np.array([1.0, 2.0, 2.0]), np.array([2.0, 0.2, 0.5]), 0.5
    rate = 0.1 if kind == "adagrad" else 0.01
    descent = Descent(FACES[face], np.array([0.5, -1.0, 1.0]), kind, l1_step, l1, rate)
    for _ in range(2500):
        descent.step(curvature * (descent.w - center))
    np.testing.assert_allclose(descent.w, [1.5, 0, 0.25], atol=1e-5)
    assert descent.w[1] == 0


def share_of_zeros(kind, l1_step, noise, seed=0):
    """200 weights, 87% of which are 0 at the minimum; (share at 0, weights wrongly at 0)."""
    rng = np.random.default_rng(seed)
    center = np.zeros(200)
    center[:26] = rng.choice([-1, 1], 26) * rng.uniform(1, 3, 26)
    descent = Descent(functional, rng.standard_normal(200), kind, l1_step, 0.5, 0.01)
    for _ in range(4000):
        descent.step(descent.w - center + noise * rng.standard_normal(200))
    zero = descent.w == 0
    return zero.mean(), int(zero[:26].sum())


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_cumulative_keeps_the_zeros_under_noise(kind):
    share, wrong = share_of_zeros(kind, "cumulative", noise=1.0)
    assert share >= 0.86 and wrong == 0


def test_sign_reaches_no_zero_and_proximal_loses_some_to_noise():
    assert share_of_zeros("adam", "sign", noise=0.1) == (0, 0)
    calm, _ = share_of_zeros("adam", "proximal", noise=0.1)
    noisy, _ = share_of_zeros("adam", "proximal", noise=1.0)
    assert calm >= 0.86 > noisy


# ------------------------------------------------ models, against scikit-learn


def linear_model(n_in, n_out, activation, loss, regularizer, optimizer, seed=0):
    fr.set_random_seed(seed)
    dense = fr.Dense(n_out, activation, kernel_regularizer=regularizer)
    model = fr.Sequential([fr.Input((n_in,), dtype="float64"), dense])
    model.compile(optimizer, loss)
    return model


ADAPTIVE = {
    "amsgrad": partial(fr.Adam, 0.01, amsgrad=True),
    "adamax": partial(fr.Adamax, 0.01),
    "nadam": partial(fr.Nadam, 0.01),
    "rmsprop": partial(fr.RMSprop, 0.003, rho=0.99),
    "rmsprop momentum": partial(fr.RMSprop, 0.002, rho=0.99, momentum=0.5),
    "adagrad": partial(fr.Adagrad, learning_rate=0.3),
}


def optimizers(l1_step, rate):
    return [
        fr.SGD(rate, l1_step=l1_step),
        fr.SGD(rate / 10, momentum=0.9, l1_step=l1_step),
        fr.SGD(rate / 10, momentum=0.9, nesterov=True, l1_step=l1_step),
        fr.Adam(rate, l1_step=l1_step),
    ]


def regression(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((60, 12))
    w = np.zeros(12)
    w[:4] = [2.0, -1.0, 0.5, 0.25]
    return x, x @ w + 0.1 * rng.standard_normal(60) + 0.3


def full_batch(model, x, y, epochs):
    """Adam's steps do not shrink by themselves: its rate is halved on the way."""
    for _ in range(10):
        model.fit(x, y, batch_size=len(x), epochs=epochs // 10, shuffle=False, verbose=0)
        if isinstance(model.optimizer, fr.Adam) and not model.optimizer.amsgrad:
            model.optimizer.learning_rate /= 2
    kernel, bias = model.get_weights()
    return kernel, bias


@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("number", range(4))
def test_lasso(number, l1_step):
    x, y = regression()
    alpha = 0.05  # 1 / (2 n) |y - xw|^2 + alpha |w|: half of the mean squared error
    truth = Lasso(alpha=alpha, tol=1e-12, max_iter=10**6).fit(x, y)
    optimizer = optimizers(l1_step, 0.1)[number]
    model = linear_model(12, 1, None, "mse", fr.L1(2 * alpha), optimizer)
    kernel, bias = full_batch(model, x, y, 2000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-8)
    np.testing.assert_allclose(bias[0], truth.intercept_, atol=1e-8)
    assert fr.sparsity_report(model, x, y)["kkt_residual"] < 1e-8
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()


@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_lasso_by_the_adaptive_ones(name, l1_step):
    """The same minimum and the same zeros; the bias, which L1 leaves alone, keeps moving."""
    x, y = regression()
    alpha = 0.05
    truth = Lasso(alpha=alpha, tol=1e-12, max_iter=10**6).fit(x, y)
    optimizer = ADAPTIVE[name](l1_step=l1_step)
    model = linear_model(12, 1, None, "mse", fr.L1(2 * alpha), optimizer)
    kernel, bias = full_batch(model, x, y, 2000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-4)
    np.testing.assert_allclose(bias[0], truth.intercept_, atol=1e-2)
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()


@pytest.mark.parametrize("l1_step", L1_STEPS)
@pytest.mark.parametrize("number", range(4))
def test_elastic_net(number, l1_step):
    x, y = regression(1)
    # 1 / (2 n) |y - xw|^2 + alpha r |w| + alpha (1 - r) / 2 |w|^2
    truth = ElasticNet(alpha=0.1, l1_ratio=0.5, tol=1e-12, max_iter=10**6).fit(x, y)
    regularizer = fr.L1L2(l1=2 * 0.1 * 0.5, l2=0.1 * 0.5)
    model = linear_model(12, 1, None, "mse", regularizer, optimizers(l1_step, 0.1)[number])
    kernel, _ = full_batch(model, x, y, 2000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_, atol=1e-8)
    report = fr.sparsity_report(model, x, y)
    rest = y - truth.predict(x)
    penalty = regularizer(truth.coef_)
    assert report["objective"] == pytest.approx(rest @ rest / len(y) + penalty, rel=1e-10)
    assert model.polish(x, y, tol=1e-9, verbose=0).kkt_residual < 1e-8
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_ == 0) and (kernel == 0).any()


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("l1_step", L1_STEPS)
def test_l1_logistic_regression(number, l1_step):
    x, y = regression(2)
    y = (y > 0.3).astype(int)
    c = 0.2  # |w| + c sum(losses)
    truth = LogisticRegression(l1_ratio=1, C=c, solver="saga", tol=1e-10, max_iter=10**6).fit(x, y)
    regularizer = fr.L1(1 / (c * len(x)))
    optimizer = optimizers(l1_step, 1.0)[number]
    model = linear_model(12, 1, "sigmoid", "binary_crossentropy", regularizer, optimizer)
    kernel, _ = full_batch(model, x, y, 6000)
    np.testing.assert_allclose(kernel[:, 0], truth.coef_[0], atol=1e-6)
    assert np.array_equal(kernel[:, 0] == 0, truth.coef_[0] == 0) and (kernel == 0).any()
    assert model.polish(x, y, tol=1e-9, verbose=0).kkt_residual < 1e-8


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("l1_step", L1_STEPS)
def test_hidden_layers_get_exact_zeros_too(l1_step, backend):
    x, y = regression(3)
    fr.set_random_seed(1)
    hidden = fr.Dense(16, "relu", kernel_regularizer="l1", bias_regularizer=fr.L1(0.01))
    model = fr.Sequential([fr.Input((12,)), hidden, fr.Dense(1)], backend=backend)
    model.compile(fr.Adam(0.003, l1_step=l1_step), "mse")
    model.fit(x, y, batch_size=20, epochs=150, verbose=0)
    kernel, *_ = model.get_weights()
    assert 0.2 < (kernel == 0).mean() < 1


def test_training_goes_on_after_saving(tmp_path):
    """The budget of the cumulative step is state, and saved as such."""
    x, y = regression(4)
    model = linear_model(12, 1, None, "mse", fr.L1(0.1), fr.Adam(0.01, l1_step="cumulative"))
    model.fit(x, y, epochs=5, shuffle=False, verbose=0)
    model.save(tmp_path / "model.safetensors")
    again = fr.load_model(tmp_path / "model.safetensors")
    assert again.optimizer == model.optimizer
    for each in (model, again):
        each.fit(x, y, epochs=5, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_momentum_of_one_is_refused():
    model = linear_model(12, 1, None, "mse", "l1", fr.SGD(momentum=1.0, l1_step="proximal"))
    with pytest.raises(ValueError, match=r"momentum: got 1; below 1 is needed"):
        model.fit(*regression(), verbose=0)


# ------------------------------------------------ compact


def sparse_model(activation="relu", *, use_bias=True, dropout=False, backend=None, seed=0):
    """10-8-6-3 with dead inputs, dead units and unread units in both hidden layers."""
    fr.set_random_seed(seed)
    layers = [fr.Input((10,)), fr.Dense(8, activation)]
    layers += [fr.Dropout(0.3)] if dropout else []
    layers += [fr.Dense(6, activation, use_bias=use_bias), fr.Dense(3, use_bias=use_bias)]
    model = fr.Sequential(layers, backend=backend)
    model.compile(fr.SGD(0.01, momentum=0.9), "mse")
    rng = np.random.default_rng(seed)
    weights = [rng.standard_normal(w.shape).astype("float32") for w in model.get_weights()]
    first, second, last = (w for w in weights if w.ndim == 2)
    first[[1, 4, 9]] = 0  # unread inputs
    first[:, [0, 5]] = 0  # constant units
    second[2] = 0  # a unit that nobody reads
    second[:, 3] = 0
    last[1] = 0
    model.set_weights(weights)
    return model


X = np.random.default_rng(5).standard_normal((40, 10)).astype("float32")
Y = np.random.default_rng(6).standard_normal((40, 3)).astype("float32")


def assert_same_outputs(small, model, x):
    """Equal to float32's rounding: sums of terms as large as the largest output."""
    expected = model.predict(x)
    np.testing.assert_allclose(small.predict(x), expected, rtol=0, atol=1e-6 * abs(expected).max())


def shapes(model):
    return [w.shape for w in model.get_weights() if w.ndim == 2]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("activation", ["linear", "relu", "tanh", "sigmoid"])
def test_compact_gives_the_same_outputs(activation, dropout, backend):
    model = sparse_model(activation, dropout=dropout, backend=backend)
    before = model.get_weights()
    small = fr.compact(model)
    assert shapes(small) == [(7, 5), (5, 4), (4, 3)]
    assert small.selected_inputs_.tolist() == [0, 2, 3, 5, 6, 7, 8]
    assert_same_outputs(small, model, X)
    assert small.input_shape == (None, 10) and small.backend == model.backend
    for a, b in zip(before, model.get_weights(), strict=True):
        assert np.array_equal(a, b)
    ignored = X.copy()
    ignored[:, [1, 4, 9]] = np.nan
    assert np.array_equal(small.predict(ignored), small.predict(X))


def test_constants_stay_where_no_bias_can_take_them():
    small = fr.compact(sparse_model("sigmoid", use_bias=False))
    assert shapes(small) == [(7, 7), (7, 5), (5, 3)]  # sigmoid(0) is no 0: but for unread units
    assert shapes(fr.compact(sparse_model("tanh", use_bias=False))) == [(7, 7), (7, 4), (4, 3)]


def test_softmax_units_are_no_constants():
    model = sparse_model("softmax")
    small = fr.compact(model)
    assert_same_outputs(small, model, X)


def test_removal_spreads_and_leaves_one_of_each():
    fr.set_random_seed(0)
    model = fr.Sequential([fr.Input((4,)), fr.Dense(3, "relu"), fr.Dense(3, "relu"), fr.Dense(2)])
    weights = model.get_weights()
    weights[4][:] = 0  # nobody reads the last hidden layer
    model.set_weights(weights)
    small = fr.compact(model)
    assert shapes(small) == [(1, 1), (1, 1), (1, 2)]
    assert_same_outputs(small, model, X[:, :4])


def test_a_dense_model_stays():
    fr.set_random_seed(0)
    model = fr.Sequential([fr.Input((4,)), fr.Dense(3, "relu"), fr.Dense(2)])
    small = fr.compact(model)
    assert small.selected_inputs_ is None and small is not model
    for a, b in zip(model.get_weights(), small.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_compact_twice_is_compact_once():
    model = sparse_model()
    once = fr.compact(model)
    twice = fr.compact(once)
    assert np.array_equal(once.selected_inputs_, twice.selected_inputs_)
    assert shapes(once) == shapes(twice)
    assert np.array_equal(once.predict(X), twice.predict(X))


def test_training_goes_on_with_the_state_it_had():
    """What does not come to life again is not missed: the small network trains as the large one."""
    fr.set_random_seed(0)
    l1 = fr.L1(0.08)
    hidden = fr.Dense(12, "tanh", use_bias=False, kernel_regularizer=l1)
    model = fr.Sequential([fr.Input((10,), dtype="float64"), hidden, fr.Dense(3, use_bias=True)])
    model.compile(fr.SGD(0.02, momentum=0.9, l1_step="proximal"), "mse")
    model.fit(X, Y, batch_size=40, epochs=400, shuffle=False, verbose=0)
    small = fr.compact(model)
    assert shapes(small) != shapes(model)
    assert small.optimizer.iterations == model.optimizer.iterations
    for each in (model, small):
        each.fit(X, Y, batch_size=40, epochs=20, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.predict(X), model.predict(X), atol=1e-6)


def test_a_compact_model_is_saved_copied_and_described(tmp_path):
    small = fr.compact(sparse_model())
    small.save(tmp_path / "small.safetensors")
    again = fr.load_model(tmp_path / "small.safetensors")
    assert np.array_equal(again.selected_inputs_, small.selected_inputs_)
    assert np.array_equal(again.predict(X), small.predict(X))
    assert fr.Sequential.from_config(small.get_config()).input_shape == (None, 10)
    lines: list[str] = []
    small.summary(print_fn=lines.append)
    assert lines[-1] == "inputs: 7 of 10 are read"
    config = small.get_config()
    config["selected_inputs"]["index"][0] = 3
    with pytest.raises(ValueError, match="selected_inputs: got"):
        fr.Sequential.from_config(config)


@pytest.mark.parametrize("x", [X[:, :7], X[0], np.ones((3, 11))])
def test_a_compact_model_wants_rows_of_the_old_width(x):
    with pytest.raises(ValueError, match=r"x: got shape .*10\) is needed"):
        fr.compact(sparse_model()).predict(x)


@pytest.mark.parametrize("wrong", [None, fr.Dense(3), "model"])
def test_compact_refuses_what_is_no_model(wrong):
    with pytest.raises(TypeError, match="compact: got"):
        fr.compact(wrong)
    with pytest.raises(TypeError, match="sparsity_report: got"):
        fr.sparsity_report(wrong)
    with pytest.raises(ValueError, match="is not built"):
        fr.compact(fr.Sequential([fr.Dense(3)]))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_the_network_shrinks_during_fit(backend):
    x, y = regression(7)
    x = np.hstack([x, np.random.default_rng(8).standard_normal((60, 20))])
    fr.set_random_seed(3)
    hidden = fr.Dense(16, "relu", kernel_regularizer=fr.L1(0.05))
    model = fr.Sequential([fr.Input((32,)), hidden, fr.Dense(1)], backend=backend)
    optimizer = fr.Adam(0.005, l1_step="cumulative")
    model.compile(optimizer, "mse")
    sizes = []

    class Watch(fr.Callback):
        def on_epoch_end(self, epoch, logs=None):
            sizes.append(shapes(self.model)[0])

    history = model.fit(
        x,
        y,
        batch_size=20,
        epochs=300,
        validation_data=(x, y),
        callbacks=[fr.Compact(every=10), Watch()],
        verbose=0,
    )
    assert model.optimizer is optimizer and optimizer.iterations == 900
    assert sizes == sorted(sizes, reverse=True) and sizes[-1][0] < 20 < sizes[0][0]
    assert set(model.selected_inputs_[:4]) >= {0, 1}
    assert model.evaluate(x, y, verbose=0) == pytest.approx(
        history.history["val_loss"][-1], rel=1e-5
    )
    assert model.predict(x).shape == (60, 1)
    model.fit(x, y, epochs=2, verbose=0)


def test_early_stopping_brings_the_larger_network_back():
    model = sparse_model()
    first = model.predict(X)

    class Worse(fr.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["loss"] = float(epoch)

    model.optimizer.learning_rate = 0.0
    stop = fr.EarlyStopping("loss", restore_best_weights=True, patience=9)
    model.fit(X, Y, epochs=3, callbacks=[Worse(), stop, fr.Compact()], verbose=0)
    assert shapes(model) == [(10, 8), (8, 6), (6, 3)] and model.selected_inputs_ is None
    assert np.array_equal(model.predict(X), first)


# ------------------------------------------------ a share of zeros that is asked for


def digits_model(l1, optimizer):
    fr.set_random_seed(0)
    hidden = fr.Dense(32, "relu", kernel_regularizer=fr.L1(l1))
    last = fr.Dense(10, "softmax", kernel_regularizer=fr.L1(l1 / 2))
    model = fr.Sequential([fr.Input((64,)), hidden, last])
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("start", [1e-5, 1e-3])
@pytest.mark.parametrize("target", [0.7, 0.95])
@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("l1_step", L1_STEPS)
def test_target_sparsity(l1_step, kind, target, start):
    x, y = load_digits(return_X_y=True)
    optimizer = fr.Adam(2e-3, l1_step=l1_step)
    if kind == "sgd":
        optimizer = fr.SGD(0.05, momentum=0.9, l1_step=l1_step)
    model = digits_model(start, optimizer)
    tuned = fr.TargetSparsity(target)
    model.fit(x / 16, y, batch_size=64, epochs=60, callbacks=[tuned], verbose=0)
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    share = sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
    assert abs(share - target) <= 0.02 and share == pytest.approx(tuned.sparsity)
    first, last = (layer.kernel_regularizer.l1 for layer in model.layers)
    assert (first, last) == (pytest.approx(tuned.strength), pytest.approx(tuned.strength / 2))


@pytest.mark.parametrize(("groups", "l1"), [("rows", 0.0), ("columns", 0.0), ("rows", 0.5)])
def test_target_sparsity_of_groups(groups, l1):
    """Their number is what the share can move by."""
    x, y = load_digits(return_X_y=True)
    fr.set_random_seed(0)
    regularizer = fr.GroupL1(1e-4, groups, l1=1e-4 * l1)
    hidden = fr.Dense(64, "relu", kernel_regularizer=regularizer)
    model = fr.Sequential([fr.Input((64,)), hidden, fr.Dense(10, "softmax")])
    model.compile(fr.Adam(2e-3, l1_step="proximal"), "sparse_categorical_crossentropy")
    tuned = fr.TargetSparsity(0.7, tolerance=0.03)
    model.fit(x / 16, y, batch_size=64, epochs=80, callbacks=[tuned], verbose=0)
    kernel, found = model.layers[0].kernel, model.layers[0].kernel_regularizer
    assert abs((kernel == 0).mean() - 0.7) <= 0.04
    assert found.group_l1 == pytest.approx(tuned.strength)
    assert found.l1 == pytest.approx(tuned.strength * l1)
    if not l1:
        empty = ~kernel.any(axis=1 if groups == "rows" else 0)
        # Weights of a unit that is silent on all rows shrink with their group to nothing.
        assert empty.mean() >= (kernel == 0).mean() - 0.02


def test_target_sparsity_counts_what_compact_took():
    x, y = load_digits(return_X_y=True)
    model = digits_model(1e-4, fr.Adam(2e-3, l1_step="cumulative"))
    callbacks = [fr.TargetSparsity(0.9), fr.Compact(every=5)]
    model.fit(x / 16, y, batch_size=64, epochs=60, callbacks=callbacks, verbose=0)
    assert model.layers[0].kernel.size < 64 * 32
    nonzeros = sum(np.count_nonzero(w) for w in model.get_weights() if w.ndim == 2)
    assert abs(1 - nonzeros / (64 * 32 + 320) - 0.9) <= 0.02


def test_target_sparsity_of_one_layer_and_twice_the_same():
    x, y = load_digits(return_X_y=True)
    shares = []
    for _ in range(2):
        model = digits_model(1e-4, fr.Adam(2e-3, l1_step="proximal"))
        name = model.layers[0].name
        tuned = fr.TargetSparsity(0.8, every=2, layers=[name])
        model.fit(x / 16, y, batch_size=64, epochs=40, callbacks=[tuned], verbose=0)
        shares.append((model.layers[0].kernel == 0).mean())
        assert model.layers[1].kernel_regularizer == fr.L1(5e-5)
    assert abs(shares[0] - 0.8) <= 0.02 and shares[0] == shares[1]


def test_target_sparsity_goes_on_in_a_resumed_fit(tmp_path):
    x, y = load_digits(return_X_y=True)

    def fit(epochs, name, resume=False):
        model = digits_model(1e-4, fr.Adam(2e-3, l1_step="cumulative"))
        tuned = fr.TargetSparsity(0.8)
        callbacks = [tuned, fr.ModelCheckpoint(tmp_path / name)]
        options = {"epochs": epochs, "callbacks": callbacks, "resume": resume}
        model.fit(x / 16, y, batch_size=64, verbose=0, **options)
        return model.get_weights(), tuned.strength

    whole, strength = fit(12, "a.safetensors")
    fit(7, "b.safetensors")
    resumed, again = fit(12, "b.safetensors", resume=True)
    assert again == strength
    for a, b in zip(whole, resumed, strict=True):
        assert a.tobytes() == b.tobytes()


def test_target_sparsity_refuses():
    for target in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="target: got"):
            fr.TargetSparsity(target)
    with pytest.raises(TypeError, match="layers: got 'dense'"):
        fr.TargetSparsity(0.5, layers="dense")
    x, y = regression()
    for regularizer, optimizer, layers, words in (
        ("l1", fr.SGD(0.1), None, "l1_step: got 'sign'"),
        (
            "l2",
            fr.SGD(0.1, l1_step="proximal"),
            None,
            "TargetSparsity: model .* no trainable layer",
        ),
        ("l1", fr.SGD(0.1, l1_step="proximal"), ["none"], "layers: got 'none'"),
    ):
        model = linear_model(12, 1, None, "mse", regularizer, optimizer)
        with pytest.raises(ValueError, match=words):
            model.fit(x, y, callbacks=[fr.TargetSparsity(0.5, layers=layers)], verbose=0)


# ------------------------------------------------ the report


def test_report_counts():
    model = sparse_model()
    report = fr.sparsity_report(model, X)
    first, second, last = report["layers"]
    kernels = [w for w in model.get_weights() if w.ndim == 2]
    for layer, kernel in zip(report["layers"], kernels, strict=True):
        assert layer["zeros"] == (kernel == 0).sum() and layer["shape"] == kernel.shape
        assert layer["density"] == pytest.approx((kernel != 0).mean())
    assert (first["dead_inputs"], first["dead_units"], first["unread_units"]) == (3, 2, 1)
    assert (second["dead_inputs"], second["dead_units"], second["unread_units"]) == (1, 1, 1)
    assert last["unread_units"] == 0
    hidden = np.maximum(X @ kernels[0] + model.get_weights()[1], 0)
    assert first["silent_units"] == (hidden == 0).all(axis=0).sum()
    assert report["params"] == model.count_params()
    assert report["effective_flops"] == 2 * sum((k != 0).sum() for k in kernels)
    assert "dead inputs" in str(report) and "parameters" in str(report)
    assert "kkt_residual" not in report
    with pytest.raises(ValueError, match="x: got None"):
        fr.sparsity_report(model, y=Y)


def test_the_residual_is_zero_at_the_lasso():
    x, y = regression()
    optimizer = fr.SGD(0.1, l1_step="proximal")
    model = linear_model(12, 1, None, "mse", fr.L1L2(0.1, 0.01), optimizer)
    far = fr.sparsity_report(model, x, y)
    full_batch(model, x, y, 3000)
    near = fr.sparsity_report(model, x, y)
    assert near["kkt_residual"] < 1e-8 < far["kkt_residual"]
    assert near["objective"] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-12)


def test_the_residual_is_the_slope_of_the_objective():
    """Where no weight is 0, of one that goes downhill: the largest central difference."""
    fr.set_random_seed(2)
    penalties = {"kernel_regularizer": fr.L1L2(0.01, 0.02), "activity_regularizer": "l2"}
    layers = [fr.Dense(4, "tanh", **penalties), fr.Dense(3, "softmax", bias_regularizer="l1")]
    model = fr.Sequential([fr.Input((10,), dtype="float64"), *layers])
    model.compile("sgd", "sparse_categorical_crossentropy")
    weights = [w + 0.1 for w in model.get_weights()]
    labels = np.arange(40) % 3
    slopes = []
    for w in weights:
        for i in np.ndindex(w.shape):
            ends = []
            for step in (1e-6, -1e-6):
                w[i] += step
                model.set_weights(weights)
                ends.append(model.evaluate(X, labels, batch_size=40, verbose=0))
                w[i] -= step
            slopes.append(abs(ends[0] - ends[1]) / 2e-6)
    model.set_weights(weights)
    report = fr.sparsity_report(model, X, labels)
    assert report["kkt_residual"] == pytest.approx(max(slopes), rel=1e-6)


@pytest.mark.parametrize("delta", [0.3, 2.0])
def test_the_report_of_a_loss_with_a_setting(delta):
    """The objective and the residual are those of Huber's loss with that delta, in NumPy."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(60, 5)), 3 * rng.normal(size=60)
    layer = fr.Dense(1, kernel_regularizer=fr.L1(0.1))
    model = fr.Sequential([fr.Input((5,), dtype="float64"), layer])
    model.compile("sgd", fr.losses.Huber(delta))
    kernel, bias = np.array([[0.5], [0.0], [-0.25], [0.0], [1.0]]), np.array([0.1])
    model.set_weights([kernel, bias])
    apart = x @ kernel[:, 0] + bias - y
    far = np.abs(apart) > delta
    rows = np.where(far, delta * np.abs(apart) - delta**2 / 2, apart**2 / 2)
    report = fr.sparsity_report(model, x, y)
    assert report["objective"] == pytest.approx(rows.mean() + 0.1 * 1.75, rel=1e-12)
    slope = np.clip(apart, -delta, delta)
    by_kernel = x.T @ slope / 60 + 0.1 * np.sign(kernel[:, 0])
    at_zero = kernel[:, 0] == 0
    by_kernel[at_zero] = np.maximum(np.abs(by_kernel[at_zero]) - 0.1, 0)
    expected = max(np.abs(by_kernel).max(), abs(slope.mean()))
    assert report["kkt_residual"] == pytest.approx(expected, rel=1e-12)
    assert report["layers"][0]["zeros"] == 2
    model.polish(x, y, tol=1e-10, verbose=0)
    assert fr.sparsity_report(model, x, y)["kkt_residual"] <= 1e-10


def test_digits_with_noise_inputs():
    """L1 finds most of 64 added noise inputs; without them the network is as good and smaller."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    x = np.hstack([x / 16, rng.uniform(0, 1, x.shape)]).astype("float32")
    order = rng.permutation(len(x))
    x, y = x[order], y[order]
    train, test = slice(0, 1400), slice(1400, None)
    accuracy, small = {}, None
    for l1 in (0.0, 5e-3):
        fr.set_random_seed(0)
        hidden = fr.Dense(64, "relu", kernel_regularizer=fr.L1(l1))
        model = fr.Sequential([fr.Input((128,)), hidden, fr.Dense(10, "softmax")])
        optimizer = fr.Adam(2e-3, l1_step="cumulative")
        model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(x[train], y[train], batch_size=64, epochs=60, verbose=0)
        accuracy[l1] = model.evaluate(x[test], y[test], verbose=0)[1]
        small = fr.compact(model)
        assert_same_outputs(small, model, x)
    noise_kept = (small.selected_inputs_ >= 64).sum()
    assert noise_kept <= 0.2 * 64
    assert accuracy[5e-3] >= accuracy[0.0] - 0.01
