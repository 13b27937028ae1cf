"""The reference against definitions: closed forms, central differences, Philox' known answers."""

import itertools
import math

import numpy as np
import pytest
from losses_with_settings import WITH_SETTINGS

from fastreg import inputs, reference

RNG = np.random.default_rng(0)
COEFFICIENTS = [f"{of}_{power}" for of in ("kernel", "bias", "activity") for power in ("l1", "l2")]


def dense(n_in, n_out, activation="linear", **settings):
    layer = {
        "kind": "dense",
        "n_in": n_in,
        "n_out": n_out,
        "activation": activation,
        "curve": {"elu": (0.7, np.inf, 0.0), "leaky_relu": (0.3, 0.9, 0.1)}.get(activation),
        "use_bias": True,
        "trainable": True,
    }
    return layer | dict.fromkeys(COEFFICIENTS, 0.0) | settings


def dropout(n, rate=0.0, seed=None):
    return {"kind": "dropout", "n_in": n, "n_out": n, "rate": rate, "seed": seed}


def sgd(learning_rate, momentum=0.0, nesterov=False, weight_decay=0.0):
    return {
        "kind": "sgd",
        "learning_rate": learning_rate,
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
    }


def adam(learning_rate=1e-3, weight_decay=0.0):
    return {
        "kind": "adam",
        "learning_rate": learning_rate,
        "beta_1": 0.9,
        "beta_2": 0.999,
        "epsilon": 1e-7,
        "weight_decay": weight_decay,
    }


def random_weights(layers, dtype="float64", seed=1):
    rng = np.random.default_rng(seed)
    shapes = []
    for layer in layers:
        if layer["kind"] == "dense":
            shapes.append((layer["n_in"], layer["n_out"]))
            if layer["use_bias"]:
                shapes.append((layer["n_out"],))
    # Away from 0, where l1 has its kink.
    return [
        (rng.uniform(0.1, 0.9, shape) * rng.choice([-1, 1], shape)).astype(dtype)
        for shape in shapes
    ]


def targets(loss, n, n_out, rng):
    if loss == "sparse_categorical_crossentropy":
        return rng.integers(0, n_out, n).astype(np.int32)
    if loss == "categorical_crossentropy":  # soft targets whose sum is not 1
        return rng.uniform(0.1, 1.0, (n, n_out))
    return rng.uniform(0.0, 1.0, (n, n_out))


def network_of(layers, weights, dtype="float64"):
    network = reference.Network(layers, dtype)
    network.set_weights(weights)
    return network


def train(network, x, y, optimizer, loss="mean_squared_error", **kwargs):
    """Steps done and the ledger."""
    arguments = {
        "sample_weight": None,
        "index": None,
        "start": 0,
        "stop": len(x),
        "batch_size": len(x),
        "iteration": 0,
        "seed": 5,
        "accuracy": None,
    } | kwargs
    order = ("sample_weight", "index", "start", "stop", "batch_size")
    ledger = np.zeros(6)
    steps = network.train(
        x,
        y,
        *(arguments[name] for name in order),
        loss,
        optimizer,
        arguments["iteration"],
        arguments["seed"],
        arguments["accuracy"],
        ledger,
        1,
    )
    return steps, ledger


def objective(layers, weights, x, y, loss, sample_weight):
    """The total loss a step sees, dropout included."""
    _, ledger = train(
        network_of(layers, weights), x, y, sgd(0.0), loss, sample_weight=sample_weight
    )
    return ledger[:4].sum() / ledger[5]


def assert_gradient(layers, x, y, loss, sample_weight=None, h=1e-6):
    """One SGD step with learning rate 1 moves by the central difference of the objective."""
    weights = random_weights(layers)
    network = network_of(layers, weights)
    train(network, x, y, sgd(1.0), loss, sample_weight=sample_weight)
    for i, (before, after) in enumerate(zip(weights, network.get_weights(), strict=True)):
        difference = np.empty_like(before)
        for place in np.ndindex(before.shape):
            sides = []
            for step in (h, -h):
                moved = [w.copy() for w in weights]
                moved[i][place] += step
                sides.append(objective(layers, moved, x, y, loss, sample_weight))
            difference[place] = (sides[0] - sides[1]) / (2 * h)
        # Central differences: O(h^2) + O(eps / h) of values of order 1 to 10.
        size = max(1.0, float(np.abs(difference).max()))
        np.testing.assert_allclose(before - after, difference, rtol=1e-6, atol=1e-8 * size)


# ------------------------------------------------ gradients


POSITIVE = ("relu", "sigmoid", "softmax", "relu6", "exponential", "softplus", "hard_sigmoid")


@pytest.mark.parametrize("head", ["dense", "dropout"])
@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        (activation, loss)
        for activation in reference.ACTIVATIONS
        for loss in reference.LOSSES
        if loss != "poisson" or activation in POSITIVE  # it has the logarithm of the output
    ],
)
def test_gradient_of_every_loss_after_every_activation(activation, loss, head):
    """With a dropout layer last nothing is fused: the clipped crossentropies are differentiated."""
    rng = np.random.default_rng(2)
    layers = [dense(3, 4, "tanh"), dense(4, 3, activation)]
    if head == "dropout":
        layers.append(dropout(3))
    x, y = rng.normal(size=(5, 3)), targets(loss, 5, 3, rng)
    assert_gradient(layers, x, y, loss, sample_weight=rng.uniform(0.5, 2.0, 5))


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("loss", WITH_SETTINGS, ids=repr)
def test_gradient_of_losses_with_settings(activation, loss):
    rng = np.random.default_rng(5)
    layers = [dense(3, 4, "tanh"), dense(4, 3, activation)]
    x, y = rng.normal(size=(5, 3)), targets(loss.name, 5, 3, rng)
    assert_gradient(layers, x, y, loss, sample_weight=rng.uniform(0.5, 2.0, 5))


@pytest.mark.parametrize("coefficient", COEFFICIENTS)
@pytest.mark.parametrize(
    ("activation", "loss"),
    [(activation, "mean_squared_error") for activation in reference.ACTIVATIONS]
    + list(reference.FUSED),
)
def test_gradient_of_every_regularizer(activation, loss, coefficient):
    rng = np.random.default_rng(3)
    layers = [
        # exp of exp is too steep for central differences
        dense(3, 4, "elu" if activation == "exponential" else activation, **{coefficient: 0.3}),
        dropout(4, rate=0.4),
        dense(4, 3, activation, **{coefficient: 0.2}),
    ]
    x, y = rng.normal(size=(6, 3)), targets(loss, 6, 3, rng)
    assert_gradient(layers, x, y, loss)


def test_gradient_without_bias_and_through_frozen_layers():
    rng = np.random.default_rng(4)
    layers = [
        dense(3, 4, "sigmoid", use_bias=False),
        dense(4, 4, "tanh", trainable=False, activity_l2=0.3, kernel_l1=9.0),
        dense(4, 2, "linear", use_bias=False, kernel_l2=0.1),
    ]
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2))
    weights = random_weights(layers)
    network = network_of(layers, weights)
    _, ledger = train(network, x, y, sgd(1.0, weight_decay=0.1))
    after = network.get_weights()
    assert np.array_equal(after[1], weights[1])
    assert np.array_equal(after[2], weights[2])
    assert not np.array_equal(after[0], weights[0])
    assert ledger[1] == pytest.approx(5 * 0.1 * (weights[3] ** 2).sum())
    assert ledger[3] > 0
    # The frozen layer itself does not move, so compare the others with a copy that is not frozen.
    free = network_of([layers[0], layers[1] | {"trainable": True}, layers[2]], weights)
    train(free, x, y, sgd(1.0, weight_decay=0.1))
    assert np.array_equal(free.get_weights()[0], after[0])
    assert np.array_equal(free.get_weights()[3], after[3])
    assert not np.array_equal(free.get_weights()[1], after[1])


def test_all_layers_frozen_still_counts_steps():
    layers = [dense(2, 1, trainable=False)]
    weights = random_weights(layers)
    network = network_of(layers, weights)
    steps, ledger = train(network, np.ones((4, 2)), np.ones((4, 1)), sgd(1.0), batch_size=2)
    assert (steps, ledger[5]) == (2, 4)
    assert np.array_equal(network.get_weights()[0], weights[0])


@pytest.mark.parametrize("name", reference.LOSSES)
def test_loss_gradient_is_that_of_loss_also_where_clipped(name):
    rng = np.random.default_rng(6)
    p = rng.uniform(0.1, 0.9, (6, 3))
    y = targets(name, 6, 3, rng)
    if name != "mean_squared_error":
        p[0], p[1, 1] = [1.0 + (name == "kl_divergence"), 1e-9, 1e-9], 1e-9
    w = rng.uniform(0.5, 2.0, 6)
    gradient = reference.loss_gradient(name, y, p, w)
    h = np.where((p < 1e-8) | (p == 1), 1e-10, 1e-6)  # p + h stays on its side of the clip
    for place in np.ndindex(p.shape):
        up, down = p.copy(), p.copy()
        up[place] += h[place]
        down[place] -= h[place]
        difference = (reference.loss(name, y, up, w) - reference.loss(name, y, down, w)) / (
            2 * h[place]
        )
        # h = 1e-10 leaves eps / h = 1e-6 of a loss of order 10.
        assert gradient[place] == pytest.approx(difference, rel=1e-5, abs=3e-5)


# ------------------------------------------------ closed forms


def test_tables_hold_the_names_the_door_lets_in():
    assert tuple(reference.ACTIVATIONS) == inputs.ACTIVATIONS
    assert tuple(reference.LOSSES) == inputs.LOSSES


def test_activations_at_known_points():
    z = np.array([[-1.0, 0.0, 2.0]])
    e = np.exp(z)
    forward = reference.activation_forward
    assert np.array_equal(forward(z, "linear"), z)
    assert np.array_equal(forward(z, "relu"), [[0, 0, 2]])
    np.testing.assert_allclose(forward(z, "tanh"), (e - 1 / e) / (e + 1 / e), rtol=1e-15)
    np.testing.assert_allclose(forward(z, "sigmoid"), e / (1 + e), rtol=1e-15)
    np.testing.assert_allclose(forward(z, "softmax"), e / e.sum(), rtol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", sorted(set(reference.ACTIVATIONS) - {"exponential"}))
def test_activations_far_out_stay_finite_and_nan_stays_nan(activation, dtype):
    z = np.array([[-1e4, 1e4, 0.0]], dtype)
    y = reference.activation_forward(z, activation)
    assert np.isfinite(y).all()
    assert y.dtype == dtype
    z[0, 2] = np.nan
    assert np.isnan(reference.activation_forward(z, activation)[0, 2])


def test_softmax_works_on_the_last_axis_of_any_rank():
    z = RNG.normal(size=(2, 3, 4))
    y = reference.activation_forward(z, "softmax")
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-15)
    assert np.array_equal(y[1, 2], reference.activation_forward(z[1, 2], "softmax"))


def test_penalty_is_accumulated_in_float64():
    w = np.full(1 << 20, 0.1, "float32")
    element = float(np.float32(0.1))
    exact = len(w) * (0.5 * element + 0.25 * element**2)
    assert reference.penalty(w, 0.5, 0.25) == pytest.approx(exact, rel=1e-12)
    big = np.full(4, 1e30, "float32")
    assert reference.penalty(big, l2=1.0) == pytest.approx(4e60, rel=1e-6)


def test_penalty_gradient_at_zero_is_zero():
    gradient = reference.penalty_gradient(np.array([0.0, -0.0, 2.0]), l1=1.0, l2=0.5)
    assert np.array_equal(gradient, [0, 0, 3])


def test_losses_by_definition():
    p = np.array([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    y = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    w = np.array([1.0, 3.0])
    loss = reference.loss
    rows = -np.log([0.5, 0.8])
    assert loss("categorical_crossentropy", y, p) == pytest.approx(rows.mean())
    assert loss("categorical_crossentropy", y, p, w) == pytest.approx((w * rows).sum() / 2)
    assert loss("sparse_categorical_crossentropy", [1, 2], p) == pytest.approx(rows.mean())
    assert loss("sparse_categorical_crossentropy", [1, 2], 5 * p) == pytest.approx(rows.mean())
    binary = -np.where(y == 1, np.log(p), np.log(1 - p)).mean(axis=1)
    assert loss("binary_crossentropy", y, p, w) == pytest.approx((w * binary).sum() / 2)
    assert loss("mean_squared_error", y, p) == pytest.approx(((y - p) ** 2).mean())
    assert loss("binary_crossentropy", [[1.0]], [[0.0]]) == pytest.approx(-math.log(1e-7))


@pytest.mark.parametrize("name", reference.LOSSES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_loss_hides_what_is_not_finite(name, bad):
    p = np.full((2, 3), 0.5)
    p[1, 2] = bad
    y = np.zeros(2, int) if name == "sparse_categorical_crossentropy" else np.full((2, 3), 0.5)
    assert not math.isfinite(reference.loss(name, y, p))


def test_a_fused_loss_does_not_lose_large_logits():
    """Clipped probabilities could not tell a loss above 16."""
    x, weights = np.ones((1, 1)), [np.array([[50.0]]), np.zeros(1)]
    network = network_of([dense(1, 1, "sigmoid")], weights)
    _, ledger = train(network, x, np.zeros((1, 1)), sgd(1.0), "binary_crossentropy")
    assert ledger[0] == pytest.approx(50.0, rel=1e-15)
    assert network.get_weights()[0] == pytest.approx(49.0)
    weights = [np.array([[50.0, 0.0]]), np.zeros(2)]
    for loss, y in (
        ("categorical_crossentropy", np.array([[0.0, 1.0]])),
        ("sparse_categorical_crossentropy", np.array([1], np.int32)),
    ):
        network = network_of([dense(1, 2, "softmax")], weights)
        _, ledger = train(network, x, y, sgd(1.0), loss)
        assert ledger[0] == pytest.approx(50.0, rel=1e-15)
        np.testing.assert_allclose(network.get_weights()[0], [[49.0, 1.0]], rtol=1e-14)


def test_linear_least_squares_gradient_is_the_textbook_one():
    x, y = RNG.normal(size=(20, 3)), RNG.normal(size=(20, 2))
    layers = [dense(3, 2, use_bias=False)]
    weights = random_weights(layers)
    network = network_of(layers, weights)
    train(network, x, y, sgd(1.0))
    gradient = 2 / (20 * 2) * x.T @ (x @ weights[0] - y)
    np.testing.assert_allclose(weights[0] - network.get_weights()[0], gradient, rtol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_recurrence(nesterov):
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    expected, velocity = w.copy(), np.zeros(2)
    for dw in RNG.normal(size=(5, 2)):
        g = dw + 0.1 * np.sign(expected) + 2 * 0.2 * expected
        expected = expected - 0.5 * 0.01 * expected
        velocity = 0.9 * velocity - 0.5 * g
        expected = expected + (0.9 * velocity - 0.5 * g if nesterov else velocity)
        reference.sgd_update(
            w,
            dw,
            v,
            learning_rate=0.5,
            momentum=0.9,
            nesterov=nesterov,
            weight_decay=0.01,
            l1=0.1,
            l2=0.2,
        )
    np.testing.assert_allclose(w, expected, rtol=1e-13)
    np.testing.assert_allclose(v, velocity, rtol=1e-13)


def test_adam_follows_its_recurrence():
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    expected, mean, square = w.copy(), np.zeros(2), np.zeros(2)
    for t, dw in enumerate(RNG.normal(size=(5, 2)), start=1):
        g = dw + 0.1 * np.sign(expected) + 2 * 0.2 * expected
        expected = expected - 0.5 * 0.01 * expected
        mean = 0.8 * mean + 0.2 * g
        square = 0.95 * square + 0.05 * g * g
        rate = 0.5 * math.sqrt(1 - 0.95**t) / (1 - 0.8**t)
        expected = expected - rate * mean / (np.sqrt(square) + 1e-3)
        reference.adam_update(
            w,
            dw,
            m,
            v,
            iteration=t - 1,
            learning_rate=0.5,
            beta_1=0.8,
            beta_2=0.95,
            epsilon=1e-3,
            weight_decay=0.01,
            l1=0.1,
            l2=0.2,
        )
    np.testing.assert_allclose(w, expected, rtol=1e-12)
    np.testing.assert_allclose(m, mean, rtol=1e-12)
    np.testing.assert_allclose(v, square, rtol=1e-12)


# ------------------------------------------------ dropout

# kat_vectors of Random123, philox4x32 with 10 rounds: counter, key, answer.
PHILOX = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(text):
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), PHILOX)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert list(reference.philox4x32(words(counter), words(key))) == words(answer)
    arrays = [np.full((2, 3), word, np.uint64) for word in words(counter)]
    for got, word in zip(reference.philox4x32(arrays, words(key)), words(answer), strict=True):
        assert got.dtype == np.uint64
        assert (got == word).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout_element_by_element(dtype):
    seed, iteration, layer, rate = 0x0123456789ABCDEF, 2**32 + 3, 2, 0.3
    x = RNG.normal(size=(5, 11)).astype(dtype)
    y = reference.dropout(x, rate, seed=seed, iteration=iteration, layer=layer)
    scale = x.dtype.type(1 / (1 - rate))
    for row, column in np.ndindex(x.shape):
        block = reference.philox4x32((column // 4, row, layer, 3), (0x89ABCDEF, 0x01234567))
        kept = block[column % 4] >= int(rate * 2**32)
        assert y[row, column] == (x[row, column] * scale if kept else 0)


def test_dropout_drops_its_share_and_never_at_rate_zero():
    x = np.ones((400, 500))
    kept = (reference.dropout(x, 0.25, seed=11) > 0).mean()
    assert abs(kept - 0.75) < 5 * math.sqrt(0.25 * 0.75 / x.size)
    assert np.array_equal(reference.dropout(x, 0.0, seed=11), x)


def test_dropout_layers_draw_by_position_iteration_and_seed():
    """The network's masks are those of the function, and a layer's own seed wins."""
    x = np.ones((3, 8))
    for layer_seed, position in itertools.product([None, 9], [0, 1]):
        layers = [dropout(8, 0.5, layer_seed)]
        layers.insert(1 - position, dense(8, 8, "linear"))
        weights = [np.eye(8), np.zeros(8)]
        _, ledger = train(network_of(layers, weights), x, 0 * x, sgd(0.0), iteration=4, seed=5)
        y = reference.dropout(x, 0.5, seed=layer_seed or 5, iteration=4, layer=position)
        assert ledger[0] == pytest.approx(3 * (y**2).mean())


# ------------------------------------------------ the network


LAYERS = [dense(4, 6, "tanh", kernel_l1=1e-3, activity_l2=1e-3), dropout(6, 0.3), dense(6, 3)]


def test_batches_follow_the_index_and_the_last_may_be_short():
    x, y = RNG.normal(size=(11, 4)), RNG.normal(size=(11, 3))
    weight = RNG.uniform(0.5, 2, 11)
    index = RNG.permutation(11)
    a, b = (network_of(LAYERS, random_weights(LAYERS)) for _ in range(2))
    steps, ledger = train(
        a, x, y, adam(), sample_weight=weight, index=index, start=1, stop=9, batch_size=3
    )
    chosen = index[1:9]
    _, expected = train(b, x[chosen], y[chosen], adam(), sample_weight=weight[chosen], batch_size=3)
    assert steps == 3
    assert ledger[5] == 8
    assert np.array_equal(ledger, expected)
    assert all(map(np.array_equal, a.get_weights(), b.get_weights()))


def test_slots_and_iteration_continue_a_run():
    x, y = RNG.normal(size=(12, 4)), RNG.normal(size=(12, 3))
    for optimizer, n_slots in ((sgd(0.1), 0), (sgd(0.1, momentum=0.9), 1), (adam(), 2)):
        whole, first = (network_of(LAYERS, random_weights(LAYERS)) for _ in range(2))
        assert whole.get_slots() == []
        train(whole, x, y, optimizer, batch_size=3)
        train(first, x, y, optimizer, batch_size=3, stop=6)
        second = network_of(LAYERS, first.get_weights())
        assert len(first.get_slots()) == n_slots
        second.set_slots(first.get_slots())
        train(second, x, y, optimizer, batch_size=3, start=6, iteration=2)
        for got, expected in zip(second.get_weights(), whole.get_weights(), strict=True):
            assert np.array_equal(got, expected)
        second.set_slots([])
        assert second.get_slots() == []


def test_weights_and_slots_go_in_and_out_as_copies():
    weights = random_weights(LAYERS)
    network = network_of(LAYERS, weights)
    weights[0][:] = 0
    network.get_weights()[0][:] = 0
    assert network.get_weights()[0].all()
    train(network, RNG.normal(size=(4, 4)), RNG.normal(size=(4, 3)), adam())
    slots = network.get_slots()
    network.set_slots(slots)
    slots[0][0][:] = 0
    network.get_slots()[0][0][:] = 0
    assert network.get_slots()[0][0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("loss", reference.LOSSES)
def test_a_step_whose_loss_is_not_finite_changes_nothing(loss, bad):
    x, y = RNG.normal(size=(6, 4)), targets(loss, 6, 3, RNG)
    layers = [dense(4, 5, "relu"), dense(5, 3, "softmax")]
    network, expected = (network_of(layers, random_weights(layers)) for _ in range(2))
    _, clean_ledger = train(expected, x, y, adam(), loss, batch_size=2, stop=4)
    x[5] = bad
    steps, ledger = train(network, x, y, adam(), loss, batch_size=2)
    assert steps == 2
    assert np.array_equal(ledger, clean_ledger)
    assert all(map(np.array_equal, network.get_weights(), expected.get_weights()))
    for got, want in zip(network.get_slots(), expected.get_slots(), strict=True):
        assert all(map(np.array_equal, got, want))
    fresh = network_of(layers, random_weights(layers))
    assert train(fresh, x[4:], y[4:], adam(), loss)[0] == 0
    assert fresh.get_slots() == []


def test_nothing_given_is_changed():
    x, y, weight = RNG.normal(size=(6, 4)), RNG.normal(size=(6, 3)), RNG.uniform(1, 2, 6)
    copies = x.copy(), y.copy(), weight.copy()
    layers = [dropout(4, 0.5), dense(4, 3)]
    train(network_of(layers, random_weights(layers)), x, y, sgd(0.1), sample_weight=weight)
    assert all(map(np.array_equal, (x, y, weight), copies))


def test_ledger_of_train_and_evaluate():
    layers = [
        dense(4, 5, "tanh", kernel_l2=0.1, bias_l1=0.2, activity_l1=0.3),
        dense(5, 3, "softmax", kernel_l1=0.05),
    ]
    x, y = RNG.normal(size=(7, 4)), RNG.integers(0, 3, 7).astype(np.int32)
    weights = random_weights(layers)
    loss, accuracy = "sparse_categorical_crossentropy", "sparse_categorical"
    _, trained = train(network_of(layers, weights), x, y, sgd(0.0), loss, accuracy=accuracy)
    ledger = np.zeros(6)
    network_of(layers, weights).evaluate(x, y, None, 0, 7, 3, loss, accuracy, ledger, 1)
    hidden = np.tanh(x @ weights[0] + weights[1])
    p = reference.activation_forward(hidden @ weights[2] + weights[3], "softmax")
    expected = [
        -np.log(p[np.arange(7), y]).sum(),
        7 * (0.1 * (weights[0] ** 2).sum() + 0.05 * np.abs(weights[2]).sum()),
        7 * 0.2 * np.abs(weights[1]).sum(),
        0.3 * np.abs(hidden).sum(),
        (p.argmax(axis=1) == y).sum(),
        7,
    ]
    np.testing.assert_allclose(trained, expected, rtol=1e-13)
    np.testing.assert_allclose(ledger, expected, rtol=1e-13)


def test_accuracies_count_as_keras_does():
    identity = [np.eye(2), np.zeros(2)]
    layers = [dense(2, 2)]
    p = np.array([[0.9, 0.2], [0.5, 0.6], [0.3, 0.7]])

    def hits(y, accuracy):
        ledger = np.zeros(6)
        network_of(layers, identity).evaluate(
            p, y, None, 0, 3, 3, "mean_squared_error", accuracy, ledger, 1
        )
        return ledger[4]

    assert hits(np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]), "binary") == 1 + 0.5 + 0
    assert hits(np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), "categorical") == 2


def test_forward_is_inference_in_batches():
    x = RNG.normal(size=(7, 4))
    weights = random_weights(LAYERS)
    out = np.empty((7, 3))
    network_of(LAYERS, weights).forward(x, 3, out, 1)
    hidden = reference.dense_forward(x, weights[0], weights[1], "tanh")
    expected = reference.dense_forward(hidden, weights[2], weights[3])
    np.testing.assert_allclose(out, expected, rtol=1e-13)


def test_update_layers_counts_from_the_next_call():
    x, y = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 3))
    layers = [dense(4, 3)]
    network = network_of(layers, random_weights(layers))
    network.update_layers([dense(4, 3, kernel_l1=0.5, trainable=True)])
    kernel = network.get_weights()[0]
    _, ledger = train(network, x, y, sgd(0.0))
    assert ledger[1] == pytest.approx(5 * 0.5 * np.abs(kernel).sum())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [sgd(0.1, 0.9, True, 0.01), adam(0.01, 0.01)])
def test_a_training_step_is_the_functions_in_a_row(optimizer, dtype):
    """Network.train against dense_forward, loss, dense_backward and the update of each array."""
    layers = [
        dense(4, 6, "tanh", kernel_l1=0.01, bias_l2=0.02, activity_l1=0.03),
        dense(6, 3, "tanh", kernel_l2=0.02),
    ]
    x, y = (RNG.normal(size=(5, width)).astype(dtype) for width in (4, 3))
    weights = random_weights(layers, dtype)
    network = network_of(layers, weights, dtype)
    kernels, biases = weights[::2], weights[1::2]
    options = {name: value for name, value in optimizer.items() if name != "kind"}
    n_slots = len(["m", "v"]) if optimizer["kind"] == "adam" else len(["velocity"])
    state = [[np.zeros_like(w) for _ in range(n_slots)] for w in weights]
    for iteration in range(3):
        train(network, x, y, optimizer, iteration=iteration)
        hidden = reference.dense_forward(x, kernels[0], biases[0], "tanh")
        p = reference.dense_forward(hidden, kernels[1], biases[1], "tanh")
        dp = reference.loss_gradient("mean_squared_error", y, p)
        dhidden, *upper = reference.dense_backward(hidden, kernels[1], p, dp, "tanh")
        dhidden += reference.penalty_gradient(hidden, l1=0.03) / 5
        none, *lower = reference.dense_backward(
            x, kernels[0], hidden, dhidden, "tanh", need_dx=False
        )
        assert none is None
        coefficients = [{"l1": 0.01}, {"l2": 0.02}, {"l2": 0.02}, {}]
        for w, dw, slots, penalty in zip(
            weights, [*lower, *upper], state, coefficients, strict=True
        ):
            if optimizer["kind"] == "sgd":
                reference.sgd_update(w, dw, *slots, **options, **penalty)
            else:
                reference.adam_update(w, dw, *slots, iteration=iteration, **options, **penalty)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    for got, expected in zip(network.get_weights(), weights, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=tolerance)
