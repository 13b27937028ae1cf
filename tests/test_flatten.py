"""Flatten inside a network: rows of several axes become one, after layers that act on the last."""

from __future__ import annotations

import numpy as np
import pytest
from test_engine import DTYPES, assert_same_training, dense, draw_targets
from test_layer_kinds import draw_weights, loss_of, make, slope

import fastreg as fr
from fastreg import _engine, reference
from fastreg.regularizers import KLSparsity

BACKENDS = ("compiled", "reference")
HEADS = [
    ("sigmoid", "binary_crossentropy"),
    ("softmax", "sparse_categorical_crossentropy"),
    ("linear", "mean_squared_error"),
]


def draw(activation, loss, variant, widths=(5, 17, 33, 3), times=(2, 3)):
    """Layers before it on rows of several, between two of them, and after the last."""
    rng = np.random.default_rng(list(f"flatten-{activation}-{loss}-{variant}".encode()))
    n_in, first, second, n_out = widths
    a, b = times
    rates = {"activity_kl": 0.1, "activity_rate": 0.3} if variant % 2 else {}
    flat = {"kind": "flatten", "n_in": first, "n_out": first * b}
    layers = [
        *([{"kind": "flatten", "n_in": n_in, "n_out": n_in}] if variant == 3 else []),
        dense(n_in, first, "sigmoid", **rates, activity_l2=0.01, trainable=variant != 1),
        make("batch_normalization", first, rng),
        make("dropout", first, rng),
        make("layer_normalization", first, rng),
        flat,
        dense(first * b, second, "relu" if variant % 2 else "tanh", kernel_l1=0.001),
        {"kind": "flatten", "n_in": second, "n_out": second * a},
        make("gaussian_noise", second * a, rng),
        dense(second * a, n_out, activation, **({} if activation == "linear" else rates)),
    ]
    n = 41 + 7 * variant
    return {
        "name": f"flatten-{activation}-{loss}-{variant}",
        "layers": layers,
        "weights": draw_weights(rng, layers),
        "x": rng.normal(size=(n, n_in * a * b)),
        "y": draw_targets(rng, loss, n, n_out),
        "sample_weight": rng.uniform(0, 2, n) if variant % 2 else None,
        "index": rng.permutation(n) if variant % 3 else None,
        "start": variant % 2,
        "stop": n - variant % 3,
        "batch_size": 13 + variant,
        "loss": loss,
        "optimizer": {
            "kind": "sgd",
            "learning_rate": 0.05,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 0.0,
            "l1_step": "sign",
        },
        "iteration": variant,
        "seed": 5,
        "accuracy": "sparse_categorical" if loss.startswith("sparse") else "binary",
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_training_equals_the_reference(activation, loss, dtype):
    for variant in range(5):
        assert_same_training(draw(activation, loss, variant), dtype, 1 + variant % 3)


def test_odd_widths_equal_the_reference():
    for number, n in enumerate((1, 2, 7, 8, 15, 16, 31, 64, 65)):
        widths, times = (n, 1 + 37 * n % 71, n, 2), (1 + number % 3, 1 + number % 4)
        case = draw(*HEADS[number % 3], number % 5, widths, times)
        for dtype in DTYPES:
            assert_same_training(case, dtype)


@pytest.mark.parametrize(("activation", "loss"), HEADS)
def test_gradients_are_the_slope_of_the_loss(activation, loss):
    case = draw(activation, loss, 0, (4, 5, 6, 3))
    case |= {"index": None, "start": 0}
    for layer in case["layers"]:
        layer |= {"momentum": 1.0} if "momentum" in layer else {}  # moving moments stay
    step = {"kind": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    for module in (_engine, reference):
        rng = np.random.default_rng(1)
        network = module.Network(case["layers"], "float64")
        network.set_weights(case["weights"])
        loss_of(network, case, step)
        moved = network.get_weights()
        gradient = [a - b for a, b in zip(case["weights"], moved, strict=True)]
        for _ in range(3):
            direction = [rng.normal(size=w.shape) for w in case["weights"]]
            expected = slope(module, case, case["weights"], direction, 1e-5)
            mine = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True))
            assert mine == pytest.approx(expected, rel=1e-6, abs=1e-8)


def network(backend="compiled", dtype="float64", regularizer=None, **options):
    seeded = fr.initializers.GlorotUniform
    model = fr.Sequential(
        [
            fr.Input((5, 2, 4), dtype=dtype),
            fr.Rescaling(0.5),
            fr.Dense(7, "sigmoid", kernel_initializer=seeded(1), activity_regularizer=regularizer),
            fr.Flatten(),
            fr.Dense(3, "softmax", kernel_initializer=seeded(2)),
        ],
        backend=backend,
    )
    model.compile(options.pop("optimizer", fr.SGD(0.1)), "mse", **options)
    return model


RNG = np.random.default_rng(4)
X, Y = RNG.normal(size=(50, 5, 2, 4)), RNG.dirichlet(np.ones(3), 50)


@pytest.mark.parametrize("backend", BACKENDS)
def test_shapes_and_what_it_computes(backend):
    model = network(backend, metrics=["mae"], optimizer=fr.Adam(0.02))
    assert [layer.output_shape for layer in model.layers] == [
        (None, 5, 2, 4),
        (None, 5, 2, 7),
        (None, 70),
        (None, 3),
    ]
    assert model.input_shape == (None, 5, 2, 4) and model.output_shape == (None, 3)
    hidden, last = model.layers[1], model.layers[3]
    y = 1 / (1 + np.exp(-(0.5 * X @ hidden.kernel + hidden.bias)))
    z = y.reshape(50, 70) @ last.kernel + last.bias
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    for found in (model.predict(X), model(X), model(X, training=True), model.predict(X, 7)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    before = model.evaluate(X, Y, verbose=0)
    weight = RNG.uniform(0, 2, 50)
    model.fit(X, Y, 16, 30, verbose=0, sample_weight=weight, validation_split=0.2)
    assert model.evaluate(X, Y, verbose=0)[0] < before[0]
    model.train_on_batch(X[:7], Y[:7])
    again = fr.Sequential.from_config(model.get_config())
    again.set_weights(model.get_weights())
    np.testing.assert_allclose(again.predict(X), model.predict(X), rtol=1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("of", [fr.L1L2(0.01, 0.02), KLSparsity(0.2, 0.1)], ids=repr)
def test_penalties_of_outputs_before_it_are_divided_by_the_rows_of_x(of, own, backend):
    class Own:
        def value(self, y):
            assert y.shape[1:] == (5, 2, 7)
            return of(y)

        def gradient(self, y):
            return of.gradient(y)

    model = network(backend, regularizer=Own() if own else of)
    hidden = model.layers[1]
    y = 1 / (1 + np.exp(-(0.5 * X @ hidden.kernel + hidden.bias)))
    found = model.evaluate(X, Y, 50, verbose=0, return_dict=True)["activity_penalty"]
    assert found == pytest.approx(of(y) / 50, rel=1e-12)
    objective = model.objective(X, Y)
    w, step = objective.start, 1e-6
    value, gradient = objective.smooth(w)
    assert value == pytest.approx(model.evaluate(X, Y, 50, verbose=0), rel=1e-12)
    for at in (0, 13, 29, 40, 200):
        up, down = w.copy(), w.copy()
        up[at] += step
        down[at] -= step
        difference = (objective.smooth(up)[0] - objective.smooth(down)[0]) / (2 * step)
        assert difference == pytest.approx(gradient[at], rel=1e-5, abs=1e-9)
    found = model.fit(X, Y, 25, 1, verbose=0, shuffle=False).history["activity_penalty"][0]
    assert found == pytest.approx(of(y) / 50, rel=0.05)


def test_the_number_of_threads_changes_no_bit():
    found = []
    x, y = RNG.normal(size=(700, 5, 2, 4)), RNG.dirichlet(np.ones(3), 700)
    for n_threads in (1, 2, 5):
        model = network(dtype="float32", regularizer=KLSparsity(0.2, 0.1), n_threads=n_threads)
        model.fit(x, y, 256, 4, verbose=0, shuffle=False)
        found.append(b"".join(w.tobytes() for w in model.get_weights()))
    assert len(set(found)) == 1


def test_layers_come_and_go_around_it():
    model = network(regularizer=fr.L2(0.1))
    last, flat = model.pop(), model.pop()
    assert model.output_shape == (None, 5, 2, 7)
    model.compile("sgd", "mse")
    y = np.ones((50, 5, 2, 7))
    open_penalty = model.evaluate(X, y, verbose=0, return_dict=True)["activity_penalty"]
    model.add(flat)
    assert model.output_shape == (None, 70)
    model.compile("sgd", "mse")
    flat_penalty = model.evaluate(X, y.reshape(50, 70), verbose=0, return_dict=True)
    assert flat_penalty["activity_penalty"] == pytest.approx(open_penalty, rel=1e-12)
    model.add(last)
    model.compile("sgd", "mse")
    model.fit(X, Y, verbose=0)
    rows = fr.Sequential([fr.Input((4,)), fr.Dense(3), fr.Flatten(), fr.Dense(2)])
    assert rows.predict(np.ones((5, 4))).shape == (5, 2)
    by_data = fr.Sequential([fr.Dense(3), fr.Flatten(), fr.Dense(2)])
    assert by_data.predict(np.ones((6, 5, 4))).shape == (6, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_smaller_models_predict_the_same(backend):
    """Units go wherever the reader has them; what is constant goes into its bias, many times."""
    fr.set_random_seed(1)
    model = fr.Sequential(
        [
            fr.Input((3, 4), dtype="float64"),
            fr.Dense(6, "tanh", bias_initializer="ones"),
            fr.BatchNormalization(),
            fr.Flatten(),
            fr.BatchNormalization(),
            fr.Dense(5, "relu"),
            fr.Dense(2),
        ],
        backend=backend,
    )
    model.compile("adam", "mse")
    x, y = RNG.normal(size=(40, 3, 4)), RNG.normal(size=(40, 2))
    model.fit(x, y, epochs=2, verbose=0)
    first, reader = model.layers[0], model.layers[4]
    kernel, bias = first.get_weights()
    kernel[:, 1] = 0  # a constant
    kernel[2] = 0  # an input that nobody reads
    first.set_weights([kernel, bias])
    kernel, bias = reader.get_weights()
    kernel[[4, 10, 16]] = 0  # unit 4, in all places
    kernel[3] = 0  # unit 3, in one
    reader.set_weights([kernel, bias])
    report = fr.sparsity_report(model, x)
    assert report["layers"][0]["unread_units"] == 1
    assert report["layers"][0]["compact_shape"] == (4, 4)
    assert report["layers"][1]["compact_shape"] == (12, 5)
    small = fr.compact(model)
    assert small.layers[0].units == 4 and small.selected_inputs_ is None
    np.testing.assert_allclose(small.predict(x), model.predict(x), rtol=1e-10, atol=1e-12)
    small.fit(x, y, verbose=0)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_products_in_bfloat16(compute):
    if compute == "bfloat16" and not _engine.has_bfloat16():
        pytest.skip("no avx512_bf16 here")
    losses = []
    for backend in BACKENDS:
        model = network(backend, "float32")
        told = {"compute_dtype": "bfloat16"} if compute == "bfloat16" else {}
        model.compile(fr.SGD(0.1), "mse", **told)
        losses.append(model.fit(X, Y, 16, 5, verbose=0, shuffle=False).history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_what_does_not_fit():
    model = network()
    with pytest.raises(ValueError, match=r"x: got shape \(50, 40\); \(n, 5, 2, 4\) is needed"):
        model.fit(X.reshape(50, 40), Y)
    with pytest.raises(ValueError, match=r"y: got shape \(10, 3\)"):
        model.fit(X, Y[:10])
    with pytest.raises(ValueError, match="reads"):
        fr.regularization_path(model, X, Y)
