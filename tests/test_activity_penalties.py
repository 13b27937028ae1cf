"""Penalties of a layer's outputs over a whole batch: KLSparsity, and objects of one's own."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from test_engine import DTYPES, assert_same_training, dense, draw_targets
from test_layer_kinds import SMOOTH, draw_weights, loss_of, make, slope

import fastreg as fr
from fastreg import _engine, functional, reference, regularizers
from fastreg.regularizers import KLSparsity
from fastreg.schedules import PolynomialDecay

BACKENDS = ("compiled", "reference")
FACES = (functional, reference)
ODD = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100, 300]
HEADS = [
    ("sigmoid", "binary_crossentropy"),
    ("softmax", "categorical_crossentropy"),
    ("hard_sigmoid", "mean_squared_error"),
]


# ------------------------------------------------------------------ the functions


def divergence(p, m):
    return p * np.log(p / m) + (1 - p) * np.log((1 - p) / (1 - m))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("face", FACES, ids=["functional", "reference"])
def test_value_and_gradient_within_their_rounding(face, dtype, rng):
    """Means are off by as many roundings as they have terms; the rest follows from their slopes."""
    u = float(np.finfo(dtype).eps)
    for number, n_out in enumerate(ODD):
        rows = ODD[-1 - number]
        y = rng.uniform(0.01, 0.99, (rows, n_out)).astype(dtype)
        p, kl = 0.15, 0.7
        m = y.mean(axis=0, dtype="longdouble")
        first, second = (1 - p) / (1 - m) - p / m, (1 - p) / (1 - m) ** 2 + p / m**2
        bound = (rows + 16) * u
        value = kl * rows * divergence(p, m).sum()
        off = kl * rows * (np.abs(first) * m + divergence(p, m) + u).sum() * bound
        assert abs(face.kl_penalty(y, kl, p) - value) <= off
        out = np.full_like(y, np.nan)
        found = face.kl_penalty_gradient(y, kl, p, out=out)
        assert found is out and found.dtype == dtype
        assert (np.abs(found - kl * first) <= kl * (np.abs(first) + second * m) * bound).all()


@pytest.mark.parametrize("face", FACES, ids=["functional", "reference"])
def test_means_at_the_ends_are_clipped_as_keras_clips_probabilities(face):
    y = np.array([[0.0, 1.0, -0.5, 2.0, 0.3], [0.0, 1.0, 0.2, 3.0, 0.5]])
    means = np.array([1e-7, 1 - 1e-7, 1e-7, 1 - 1e-7, 0.4])
    assert face.kl_penalty(y, 2.0, 0.2) == pytest.approx(4 * divergence(0.2, means).sum())
    gradient = face.kl_penalty_gradient(y, 2.0, 0.2)
    np.testing.assert_array_equal(gradient[:, :4], 0)
    np.testing.assert_allclose(gradient[:, 4], 2 * (0.8 / 0.6 - 0.2 / 0.4))
    assert np.isnan(face.kl_penalty(np.array([[np.nan]]), 1.0, 0.5))


@pytest.mark.parametrize("face", FACES, ids=["functional", "reference"])
def test_what_the_functions_refuse(face):
    y = np.full((2, 3), 0.5)
    for arguments, words in [
        ((y, -1.0, 0.5), "kl: got -1.0"),
        ((y, 1.0, 0.0), r"rate: got 0.0; a finite number in \(0, 1\)"),
        ((y, 1.0, 1.0), "rate: got 1.0"),
        ((y[0], 1.0, 0.5), r"y: got shape \(3,\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            face.kl_penalty(*arguments)
    with pytest.raises(ValueError, match="out: "):
        face.kl_penalty_gradient(y, 1.0, 0.5, out=y)


# ------------------------------------------------------------------ in the network


def draw(activation, loss, variant, widths=(5, 17, 33, 3), kl=0.3):
    """Rates at the entry, between, of an activation alone and of the last layer."""
    rng = np.random.default_rng(list(f"rates-{activation}-{loss}-{variant}".encode()))
    n_in, first, second, n_out = widths
    rates = {"activity_kl": kl, "activity_rate": 0.2}
    layers = [
        dense(n_in, first, "sigmoid", **rates, activity_l1=0.01, trainable=variant % 3 != 1),
        make(("batch_normalization", "dropout")[variant % 2], first, rng),
        dense(first, second, "softmax", **(rates if variant % 2 else {})),
        dense(second, second, SMOOTH[variant % 4], activity_l2=0.01),
        make("activation", second, rng, "softmax"),
        dense(second, n_out, activation, **rates, activity_l2=0.02),
    ]
    n = 61 + 7 * variant
    y = rng.uniform(0, 1, (n, n_out)) if variant % 2 else draw_targets(rng, loss, n, n_out)
    return {
        "name": f"rates-{activation}-{loss}-{variant}",
        "layers": layers,
        "weights": draw_weights(rng, layers),
        "x": rng.normal(size=(n, n_in)),
        "y": y,
        "sample_weight": rng.uniform(0, 2, n) if variant % 2 else None,
        "index": rng.permutation(n) if variant % 3 else None,
        "start": variant % 2,
        "stop": n - variant % 3,
        "batch_size": 19 + variant,
        "loss": loss,
        "optimizer": {
            "kind": "adam",
            "learning_rate": 0.01,
            "weight_decay": 0.0,
            "beta_1": 0.9,
            "beta_2": 0.99,
            "epsilon": 1e-3,
            "l1_step": "sign",
            "amsgrad": False,
        },
        "iteration": variant,
        "seed": 5,
        "accuracy": "binary",
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_training_equals_the_reference(activation, loss, dtype):
    for variant in range(6):
        assert_same_training(draw(activation, loss, variant), dtype, 1 + variant % 3)


def test_odd_widths_equal_the_reference():
    for number, n in enumerate((1, 2, 7, 8, 15, 16, 31, 64, 65, 100)):
        case = draw(*HEADS[number % 3], number % 6, (n, 1 + 37 * n % 101, n, 2))
        for dtype in DTYPES:
            assert_same_training(case, dtype)


@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_gradients_are_the_slope_of_the_loss(activation, loss):
    """Central differences along random directions, through the means of the batch."""
    for variant in (0, 1, 2):
        case = draw(activation, loss, variant, (4, 5, 6, 3))
        case |= {"index": None, "start": 0}
        for layer in case["layers"]:
            layer |= {"momentum": 1.0} if "momentum" in layer else {}  # moving moments stay
            layer |= {"activity_l1": 0.0} if "activity_l1" in layer else {}
        step = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
        for module in (_engine, reference):
            rng = np.random.default_rng(1)
            network = module.Network(case["layers"], "float64")
            network.set_weights(case["weights"])
            loss_of(network, case, step)
            moved = network.get_weights()
            gradient = [a - b for a, b in zip(case["weights"], moved, strict=True)]
            owners = [layer for layer in case["layers"] for _ in weights_of(layer)]
            free = [layer.get("trainable", False) for layer in owners]
            for _ in range(3):
                direction = [
                    rng.normal(size=w.shape) * f for w, f in zip(case["weights"], free, strict=True)
                ]
                expected = slope(module, case, case["weights"], direction, 1e-5)
                mine = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
                assert mine == pytest.approx(expected, rel=1e-6, abs=1e-8)


def weights_of(layer):
    """Its arrays in `get_weights`, by name."""
    found = ["kernel"] if layer["kind"] == "dense" or layer.get("use_gamma") else []
    found += ["bias"] if layer.get("use_bias") else []
    return found + (["mean", "variance"] if layer["kind"] == "batch_normalization" else [])


def test_the_number_of_threads_changes_no_bit():
    found = []
    for n_threads in (1, 2, 3, 8):
        fr.set_random_seed(4)
        own = KLSparsity(0.5, 0.1)
        model = autoencoder(own, "compiled", "float32", units=300, n_threads=n_threads)
        x = np.random.default_rng(3).uniform(size=(700, 40)).astype("float32")
        model.fit(x, x, 259, 4, shuffle=False, verbose=0)
        logs = model.evaluate(x, x, 100, verbose=0)
        found.append((b"".join(w.tobytes() for w in model.get_weights()), logs))
    assert len(set(found)) == 1


# ------------------------------------------------------------------ in models


def autoencoder(regularizer, backend="compiled", dtype="float64", units=24, n_in=40, **options):
    seeded = fr.initializers.GlorotUniform
    model = fr.Sequential(
        [
            fr.Input((n_in,), dtype=dtype),
            fr.Dense(
                units, "sigmoid", kernel_initializer=seeded(1), activity_regularizer=regularizer
            ),
            fr.Dense(n_in, "sigmoid", kernel_initializer=seeded(2), kernel_regularizer="l2"),
        ],
        backend=backend,
    )
    model.compile(options.pop("optimizer", "adam"), "mse", **options)
    return model


X = np.random.default_rng(5).uniform(size=(90, 40))


@pytest.mark.parametrize("backend", BACKENDS)
def test_units_come_to_their_rate(backend):
    model = autoencoder(KLSparsity(1.0, 0.1), backend, optimizer=fr.Adam(0.02))
    hidden = model.layers[0]

    def rates():
        return (1 / (1 + np.exp(-X @ hidden.kernel - hidden.bias))).mean(axis=0)

    assert np.abs(rates() - 0.1).min() > 0.1
    model.fit(X, X, 45, 120, verbose=0)
    assert np.abs(rates() - 0.1).max() < 0.03


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_penalty_is_a_mean_over_batches_and_does_not_grow_with_them(backend):
    """kl sum KL of each batch, weighted by its rows, in training as in evaluation."""
    regularizer = KLSparsity(0.4, 0.2)
    model = autoencoder(regularizer, backend, optimizer=fr.SGD(0.0))
    hidden = model.layers[0]
    y = 1 / (1 + np.exp(-X @ hidden.kernel - hidden.bias))
    for size in (90, 40, 7):
        batches = [y[first : first + size] for first in range(0, 90, size)]
        each = [0.4 * divergence(0.2, batch.mean(axis=0)).sum() for batch in batches]
        expected = np.average(each, weights=[len(batch) for batch in batches])
        trained = model.fit(X, X, size, 1, verbose=0, shuffle=False).history["activity_penalty"][0]
        evaluated = model.evaluate(X, X, size, verbose=0, return_dict=True)["activity_penalty"]
        assert trained == pytest.approx(expected, rel=1e-12)
        assert evaluated == pytest.approx(expected, rel=1e-12)
        assert regularizer(batches[0]) == pytest.approx(len(batches[0]) * each[0], rel=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layers_that_have_it(backend):
    """Dense, Activation and ActivityRegularization: the same training."""
    found = []
    for number in range(3):
        fr.set_random_seed(2)
        kl = KLSparsity(0.3, 0.1, l1=0.01)
        layers = [
            [fr.Dense(6, "sigmoid", activity_regularizer=kl)],
            [fr.Dense(6), fr.Activation("sigmoid", activity_regularizer=kl)],
            [fr.Dense(6, "sigmoid"), fr.ActivityRegularization(l1=0.01, kl=0.3, rate=0.1)],
        ][number]
        model = fr.Sequential([fr.Input((40,)), *layers, fr.Dense(40)], backend=backend)
        model.compile(fr.SGD(0.1, 0.9), "mse")
        model.fit(X, X, 16, 3, verbose=0, shuffle=False)
        found.append([*model.get_weights(), np.array(model.evaluate(X, X, verbose=0))])
        again = fr.Sequential.from_config(model.get_config())
        assert again.get_config() == model.get_config()
        for mine, other in zip(model.layers, again.layers, strict=True):
            own = getattr(mine, "activity_regularizer", None)
            assert getattr(other, "activity_regularizer", None) == own
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_strength_that_follows_a_schedule_or_is_set_later(backend):
    by_schedule = autoencoder(KLSparsity(PolynomialDecay(0.0, 10, 1.0), 0.1), backend)
    by_hand = autoencoder("l1", backend)
    for step in range(8):
        by_hand.layers[0].activity_regularizer = KLSparsity(step / 10, 0.1)
        by_hand.train_on_batch(X, X)
    by_schedule.fit(X, X, 90, 8, verbose=0, shuffle=False)
    for a, b in zip(by_schedule.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    by_hand.layers[0].activity_regularizer = None
    assert by_hand.evaluate(X, X, verbose=0, return_dict=True)["activity_penalty"] == 0


def test_the_objective_takes_all_rows_for_a_batch():
    model = autoencoder(KLSparsity(0.2, 0.1), units=5)
    objective = model.objective(X, X)
    objective.rows_at_once = min(objective.rows_at_once, 90)
    w, step = objective.start, 1e-6
    value, gradient = objective.smooth(w)
    assert value == pytest.approx(model.evaluate(X, X, 90, verbose=0), rel=1e-12)
    for at in (0, 17, 203, 250):
        up, down = w.copy(), w.copy()
        up[at] += step
        down[at] -= step
        difference = (objective.smooth(up)[0] - objective.smooth(down)[0]) / (2 * step)
        assert difference == pytest.approx(gradient[at], rel=1e-5, abs=1e-9)
    many = np.tile(X, (60, 1))  # more than an objective takes at once of a sum over the rows
    assert model.objective(many, many).smooth(w)[0] == pytest.approx(value, rel=1e-12)
    before = model.evaluate(X, X, 90, verbose=0)
    assert model.polish(X, X, tol=1e-5, max_iter=200, verbose=0).objective < before
    model.compile(fr.LBFGS(), "mse")
    model.fit(X, X, epochs=5, verbose=0)


def test_rows_of_several_axes_have_one_rate():
    """A unit's mean is over all but the last axis; the penalty does not grow with the others."""
    x = np.random.default_rng(1).uniform(size=(12, 5, 4))
    found = []
    for shape, rows in (((5, 4), x), ((4,), x.reshape(60, 4))):
        fr.set_random_seed(1)
        hidden = fr.Dense(7, "sigmoid", activity_regularizer=KLSparsity(0.5, 0.1))
        model = fr.Sequential([fr.Input(shape, dtype="float64"), hidden, fr.Dense(2)])
        model.compile(fr.SGD(0.1), "mse")
        y = np.ones((*rows.shape[:-1], 2))
        model.fit(rows, y, len(rows) // 3, 4, shuffle=False, verbose=0)
        logs = model.evaluate(rows, y, len(rows), verbose=0, return_dict=True)
        found.append((model.get_weights(), logs["activity_penalty"], logs["loss"]))
        out = 1 / (1 + np.exp(-rows @ hidden.kernel - hidden.bias))
        assert hidden.activity_regularizer(out) / len(rows) == pytest.approx(found[-1][1])
        assert hidden.activity_regularizer.gradient(out).shape == out.shape
    for a, b in zip(*(weights for weights, _, _ in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert found[0][1:] == pytest.approx(found[1][1:])


def test_what_is_refused():
    kl = KLSparsity()
    activation = fr.activations.Activation
    for each in ("relu", "tanh", None, "gelu", activation("relu", max_value=2.0)):
        with pytest.raises(ValueError, match=r"activity_regularizer: got KLSparsity.*in \[0, 1\]"):
            fr.Dense(3, each, activity_regularizer=kl)
    for each in ("sigmoid", "hard_sigmoid", "softmax", activation("relu", max_value=1.0)):
        fr.Dense(3, each, activity_regularizer=kl)
    fr.Activation("linear", activity_regularizer=kl)
    with pytest.raises(ValueError, match="activity_regularizer: got KLSparsity"):
        fr.Activation("tanh", activity_regularizer=kl)
    for name in ("kernel_regularizer", "bias_regularizer"):
        with pytest.raises(ValueError, match=f"{name}: got KL.*KLSparsity is for activities"):
            fr.Dense(3, "sigmoid", **{name: kl})
    with pytest.raises(ValueError, match="gamma_regularizer: got KLSparsity"):
        fr.LayerNormalization(gamma_regularizer=kl)
    layer = fr.Dense(3, "relu")
    with pytest.raises(ValueError, match="activity_regularizer: got KLSparsity"):
        layer.activity_regularizer = "kl_sparsity"
    assert layer.activity_regularizer is None
    for arguments, words in [((-1.0,), "kl: got -1"), ((1.0, 1.5), "rate: got 1.5")]:
        with pytest.raises(ValueError, match=words):
            KLSparsity(*arguments)
    with pytest.raises(ValueError, match="rate: got 0"):
        fr.ActivityRegularization(kl=1.0, rate=0)


def test_defaults_names_and_repr():
    assert regularizers.get("kl_sparsity") == KLSparsity(kl=0.01, rate=0.05, l1=0.0, l2=0.0)
    assert repr(KLSparsity(3.0)) == "KLSparsity(kl=3.0, rate=0.05, l1=0.0, l2=0.0)"
    assert fr.ActivityRegularization(0.1, 0.2).get_config().keys() == {
        *("name", "trainable", "dtype", "l1", "l2")
    }
    assert "activity_regularizer" not in fr.Activation("relu").get_config()


@pytest.fixture
def always_sparse():
    before = _engine.sparse()
    _engine.choose_sparse("always")
    yield
    _engine.choose_sparse(before)


@pytest.mark.parametrize("of", [KLSparsity(0.1, 0.02), "own"])
@pytest.mark.usefixtures("always_sparse")
def test_units_at_rest_do_not_hide_their_rate(of):
    """Where zeros of an activation could be left out, the penalty is of all of its outputs."""
    found = []
    activation = fr.activations.Activation("relu", max_value=1.0)
    regularizer = Own(KLSparsity(0.1, 0.02)) if of == "own" else of
    for backend in BACKENDS:
        fr.set_random_seed(3)
        hidden = fr.Dense(64, activation, activity_regularizer=regularizer)
        model = fr.Sequential([fr.Input((40,)), hidden, fr.Dense(40)], backend=backend)
        model.compile(fr.SGD(0.1), "mse")
        model.fit(X - 0.5, X, 32, 5, verbose=0, shuffle=False)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------ of one's own


class Own:
    """What the engine does itself, in Python."""

    def __init__(self, regularizer):
        self.regularizer = regularizer
        self.shapes = []

    def value(self, y):
        return self.regularizer(y)

    def gradient(self, y):
        self.shapes.append(y.shape)
        return self.regularizer.gradient(y)

    def get_config(self):
        return {"regularizer": regularizers.serialize(self.regularizer)}

    @classmethod
    def from_config(cls, config):
        return cls(regularizers.deserialize(config["regularizer"]))


@pytest.mark.parametrize("loss", ["mse", "binary_crossentropy", "own"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("optimizer", [{"momentum": 0.9}, {"global_clipnorm": 0.1}])
@pytest.mark.parametrize("kind", [fr.L1L2(0.01, 0.02), KLSparsity(0.1, 0.2, l2=0.03)], ids=repr)
def test_an_own_penalty_is_the_engines(kind, optimizer, backend, dtype, loss, rng):
    class Squared:
        def value(self, y_true, y_pred):
            return np.square(y_pred - y_true).mean(axis=1)

        def gradient(self, y_true, y_pred):
            return 2 * (y_pred - y_true) / y_pred.shape[1]

    x, y, w = rng.normal(size=(45, 5)), rng.uniform(0, 1, (45, 3)), rng.uniform(0, 2, 45)
    fits = []
    for regularizer in (kind, Own(kind)):
        fr.set_random_seed(3)
        seeded = fr.initializers.GlorotUniform
        model = fr.Sequential(
            [
                fr.Input((5,), dtype=dtype),
                fr.Dense(
                    9, "sigmoid", kernel_initializer=seeded(1), activity_regularizer=regularizer
                ),
                fr.BatchNormalization(),
                fr.Dropout(0.2, seed=1),
                fr.Dense(6, "tanh", kernel_initializer=seeded(3), trainable=False),
                fr.Activation("softmax", activity_regularizer=regularizer),
                fr.Dense(
                    3, "sigmoid", kernel_initializer=seeded(2), activity_regularizer=regularizer
                ),
            ],
            backend=backend,
        )
        of = Squared() if loss == "own" else loss
        model.compile(fr.SGD(0.1, **optimizer), of, metrics=["mae"], n_threads=2)
        options = {"batch_size": 8, "epochs": 3, "verbose": 0, "validation_data": (x, y, w)}
        history = model.fit(x, y, sample_weight=w, validation_batch_size=11, **options).history
        one = model.train_on_batch(x, y, w)
        fits.append((model.get_weights(), {**history, "one": one}))
    assert regularizer.shapes[:2] in ([(8, 9), (8, 6)], [(8, 9)] * 2)
    rounding = (
        {"rtol": 2e-5, "atol": 2e-6} if dtype == "float32" else {"rtol": 1e-10, "atol": 1e-13}
    )
    for mine, expected in zip(*(weights for weights, _ in fits), strict=True):
        np.testing.assert_allclose(mine, expected, **rounding)
    for name, expected in fits[0][1].items():
        np.testing.assert_allclose(fits[1][1][name], expected, **rounding, err_msg=name)


class Correlated:
    """The mean square of the covariances of units: no sum over elements."""

    def __init__(self, strength):
        self.strength = strength

    def value(self, y):
        off = y - y.mean(axis=0)
        return self.strength * np.square(off.T @ off).sum() / len(y)

    def gradient(self, y):
        off = y - y.mean(axis=0)
        return self.strength * 4 * off @ (off.T @ off) / len(y)

    def get_config(self):
        return {"strength": self.strength}


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_own_penalty_is_lowered_along_its_slope(backend):
    model = autoencoder(Correlated(0.1), backend, optimizer=fr.SGD(1.0), units=6)
    objective = model.objective(X, X)
    value, gradient = objective.smooth(objective.start)
    step = 1e-6
    for at in (3, 41, 200, 300):
        up, down = objective.start.copy(), objective.start.copy()
        up[at] += step
        down[at] -= step
        difference = (objective.smooth(up)[0] - objective.smooth(down)[0]) / (2 * step)
        assert difference == pytest.approx(gradient[at], rel=1e-5, abs=1e-9)
    before = model.get_weights()
    assert model.train_on_batch(X, X) == pytest.approx(value, rel=1e-12)
    moved = [(a - b).ravel() for a, b in zip(before, model.get_weights(), strict=True)]
    np.testing.assert_allclose(np.concatenate(moved), gradient, rtol=1e-9, atol=1e-15)
    model.compile(fr.LBFGS(), "mse")
    model.fit(X, X, epochs=5, verbose=0)
    assert model.evaluate(X, X, 90, verbose=0) < value


@pytest.mark.parametrize("backend", BACKENDS)
def test_own_penalties_of_rows_of_several_axes(backend):
    """It sees the rows as Keras' regularizers do; and is divided by their number alone."""
    own = Own(fr.L2(0.1))
    x = np.random.default_rng(1).uniform(size=(12, 5, 4))
    found = []
    for regularizer in (fr.L2(0.1), own):
        fr.set_random_seed(1)
        hidden = fr.Dense(7, "tanh", activity_regularizer=regularizer)
        model = fr.Sequential(
            [fr.Input((5, 4), dtype="float64"), hidden, fr.Dense(2)], backend=backend
        )
        model.compile(fr.SGD(0.1), "mse")
        model.fit(x, np.ones((12, 5, 2)), 5, 4, shuffle=False, verbose=0)
        logs = model.evaluate(x, np.ones((12, 5, 2)), verbose=0, return_dict=True)
        found.append((model.get_weights(), logs))
    assert own.shapes[0] == (5, 5, 7)
    for a, b in zip(*(weights for weights, _ in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    assert found[0][1] == pytest.approx(found[1][1])


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_does_not_fit_changes_nothing(backend):
    class Broken(Correlated):
        def __init__(self, method, given):
            super().__init__(0.1)
            setattr(self, method, lambda y: given)

    for method, given, error, words in [
        ("gradient", np.zeros(3), ValueError, r"gradient of .*Broken.*got float64 of shape \(3,\)"),
        ("gradient", "no", ValueError, "gradient of .*Broken"),
        ("gradient", [[1], [2, 3]], ValueError, "gradient of .*Broken.*unequal length"),
        (
            "value",
            np.zeros(2),
            ValueError,
            r"value of .*got float64 of shape \(2,\); a real",
        ),
        ("value", None, ValueError, "value of .*Broken.*a real number is needed"),
        ("value", float("nan"), FloatingPointError, "not finite"),
        ("gradient", np.full((90, 24), np.inf), FloatingPointError, "not finite"),
    ]:
        model = autoencoder(Broken(method, given), backend)
        before = model.get_weights()
        with pytest.raises(error, match=words):
            model.fit(X, X, 90, verbose=0)
        for a, b in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert model.optimizer.iterations == 0
        assert np.isfinite(model.predict(X)).all()


def test_files_copies_and_what_is_said(tmp_path, capsys):
    model = autoencoder(Correlated(0.1))
    model.summary()
    said = capsys.readouterr().out
    assert "slower steps: the penalty of dense" in said and "/activity" in said
    model.save(tmp_path / "m.safetensors")
    custom = {"Correlated": Correlated}
    read = fr.load_model(tmp_path / "m.safetensors", custom_objects=custom)
    expected = model.evaluate(X, X, verbose=0)
    for other in (read, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.evaluate(X, X, verbose=0) == pytest.approx(expected, rel=1e-12)
    assert expected > 0 and model.layers[0].activity_regularizer.own.strength == 0.1
    model = autoencoder(KLSparsity(0.2, 0.1))
    model.summary()
    said = capsys.readouterr().out
    assert "activity KLSparsity(kl=0.2, rate=0.1" in said and "slower" not in said
    model.save(tmp_path / "kl.safetensors")
    read = fr.load_model(tmp_path / "kl.safetensors")
    assert read.layers[0].activity_regularizer == KLSparsity(0.2, 0.1)
    assert read.evaluate(X, X, verbose=0) == model.evaluate(X, X, verbose=0)


def test_smaller_models_have_it():
    model = autoencoder(KLSparsity(0.2, 0.1))
    weights = model.get_weights()
    weights[2][[3, 5]] = 0  # nobody reads these units
    model.set_weights(weights)
    small = fr.compact(model)
    assert small.layers[0].units == 22
    assert small.layers[0].activity_regularizer == KLSparsity(0.2, 0.1)
    np.testing.assert_allclose(small.predict(X), model.predict(X), rtol=1e-12)
    small.compile("sgd", "mse")
    small.fit(X, X, verbose=0)
