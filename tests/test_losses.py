"""Losses: Keras' values on predictions, sample weights, names and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from losses_with_settings import WITH_SETTINGS

import fastreg as fr
from fastreg import inputs, losses

CLIP = 1e-7
ALL = [cls() for cls in losses.REGISTRY.classes]
EVERY = [*ALL, *WITH_SETTINGS]


def unit(a):
    return a / np.maximum(np.sqrt(np.square(a).sum(axis=-1, keepdims=True)), CLIP)


def rows(loss, y, p):
    """The loss of each row, as Keras 3.15 writes it."""
    name, s = loss.name, loss.settings
    if name == "mean_squared_error":
        return np.square(y - p).mean(axis=-1)
    if name == "mean_absolute_error":
        return np.abs(y - p).mean(axis=-1)
    if name == "mean_absolute_percentage_error":
        return 100 * np.abs((y - p) / np.maximum(np.abs(y), CLIP)).mean(axis=-1)
    if name == "mean_squared_logarithmic_error":
        first, second = np.log1p(np.maximum(p, CLIP)), np.log1p(np.maximum(y, CLIP))
        return np.square(first - second).mean(axis=-1)
    if name == "log_cosh":
        return np.log(np.cosh(p - y)).mean(axis=-1)
    if name == "poisson":
        return (p - y * np.log(p + CLIP)).mean(axis=-1)
    if name == "kl_divergence":
        y, p = np.clip(y, CLIP, 1), np.clip(p, CLIP, 1)
        return (y * np.log(y / p)).sum(axis=-1)
    if name in ("hinge", "squared_hinge"):
        margin = np.maximum(1 - (2 * y - 1) * p, 0)  # y of 0 and 1
        return (margin if name == "hinge" else np.square(margin)).mean(axis=-1)
    if name == "categorical_hinge":
        most = ((1 - y) * p).max(axis=-1)
        return np.maximum(most - (y * p).sum(axis=-1) + 1, 0)
    if name == "cosine_similarity":
        return -(unit(y) * unit(p)).sum(axis=-1)
    if name == "huber":
        e = np.abs(p - y)
        far = s.delta * e - 0.5 * s.delta**2
        return np.where(e <= s.delta, 0.5 * np.square(e), far).mean(axis=-1)
    if name == "quantile":
        return np.maximum(s.quantile * (y - p), (s.quantile - 1) * (y - p)).mean(axis=-1)
    if name in inputs.BINARY:
        y = y * (1 - s.label_smoothing) + 0.5 * s.label_smoothing
        p = 1 / (1 + np.exp(-p)) if s.from_logits else p
        kept = np.clip(p, CLIP, 1 - CLIP)
        each = -(y * np.log(kept) + (1 - y) * np.log(1 - kept))
        if name == "binary_focal_crossentropy":
            each *= (1 - (y * p + (1 - y) * (1 - p))) ** s.gamma
            if s.apply_class_balancing:
                each *= y * s.alpha + (1 - y) * (1 - s.alpha)
        return each.mean(axis=-1)
    p = np.exp(p) if s.from_logits else p
    p = np.clip(p / p.sum(axis=-1, keepdims=True), CLIP, 1 - CLIP)
    if name == "sparse_categorical_crossentropy":
        y = np.eye(p.shape[1])[y]
    y = y * (1 - s.label_smoothing) + s.label_smoothing / p.shape[1]
    return -(y * np.log(p)).sum(axis=-1)


def example(loss, rng, n=9, n_out=4):
    """Targets and predictions; probabilities incl. one that is clipped at each end."""
    name = loss.name
    p = rng.uniform(0.01, 1.0, (n, n_out))
    if loss.settings.from_logits:
        p = rng.uniform(-4, 4, (n, n_out))
    elif name in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        p /= p.sum(axis=1, keepdims=True)
    if not loss.settings.from_logits:
        p[0] = 0.0
        p[0, 1] = 1.0
    if name == "mean_squared_error":
        return rng.standard_normal((n, n_out)), p
    if name in ("hinge", "squared_hinge", *inputs.BINARY):
        return rng.integers(0, 2, (n, n_out)).astype("float64"), p
    labels = rng.integers(0, n_out, n).astype("int32")
    if name in ("categorical_crossentropy", "categorical_hinge"):
        return np.eye(n_out)[labels], p
    return (labels if name.startswith("sparse") else rng.uniform(0.01, 1, (n, n_out))), p


def test_every_loss_of_the_engine_has_its_class():
    assert [loss.name for loss in ALL] == list(inputs.LOSSES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_value(loss, weighted, rng):
    y, p = example(loss, rng)
    w = rng.uniform(0, 2, len(p)) if weighted else None
    expected = (rows(loss, y, p) * (1 if w is None else w)).sum() / len(p)
    assert isinstance(loss(y, p, w), float)
    assert loss(y, p, w) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_gradient_is_the_slope_of_the_value(loss, rng):
    y, p = example(loss, rng)
    y, p = y[1:], p[1:]  # away from the clip
    w = rng.uniform(0, 2, len(p))
    step = 1e-6
    slope = np.empty_like(p)
    for at in np.ndindex(p.shape):
        d = np.zeros_like(p)
        d[at] = step
        slope[at] = (loss(y, p + d, w) - loss(y, p - d, w)) / (2 * step)
    np.testing.assert_allclose(loss.gradient(y, p, w), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_configuration_round_trip(loss):
    assert type(loss).from_config(loss.get_config()) == loss
    assert losses.get(losses.serialize(loss)) == loss
    keras = {**loss.keras_only, **loss.get_config()}
    assert losses.get({"class_name": type(loss).__name__, "config": keras}) == loss
    assert eval(repr(loss), vars(losses)) == loss
    assert hash(loss) == hash(type(loss)(**loss.get_config()))
    assert (loss == type(loss)()) == (loss in ALL)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_names(loss):
    assert (
        losses.get(loss.name) == losses.get(type(loss).__name__) == losses.get(type(loss)) == loss
    )
    assert losses.get(loss) is loss


def test_aliases_of_keras():
    assert losses.get("mse") == losses.get("MSE") == losses.MeanSquaredError()
    assert losses.get("bce") == losses.get("BCE") == losses.BinaryCrossentropy()
    assert losses.MeanSquaredError() != losses.BinaryCrossentropy()


def test_arguments_of_keras_at_their_default():
    assert losses.BinaryCrossentropy(from_logits=False, label_smoothing=0.0) == losses.get("bce")
    assert losses.SparseCategoricalCrossentropy(ignore_class=None, axis=-1) == losses.get(
        "sparse_categorical_crossentropy"
    )


def test_refusals():
    with pytest.raises(ValueError, match=r"ignore_class: got 3; .* supports only None"):
        losses.SparseCategoricalCrossentropy(ignore_class=3)
    with pytest.raises(ValueError, match=r"axis: got 1; .* supports only -1"):
        losses.CosineSimilarity(axis=1)
    with pytest.raises(ValueError, match=r"label_smoothing: got 1.1; .* \[0, 1\]"):
        losses.CategoricalCrossentropy(label_smoothing=1.1)
    with pytest.raises(TypeError, match="from_logits: got 1 "):
        losses.BinaryCrossentropy(from_logits=1)
    with pytest.raises(ValueError, match=r"delta: got 0; .* \(0, inf\]"):
        losses.Huber(0)
    for quantile in (0, 1, -0.5, float("nan")):
        with pytest.raises(ValueError, match=r"quantile: got .* \(0, 1\)"):
            losses.Quantile(quantile)
    with pytest.raises(ValueError, match=r"gamma: got -1; .* \[0, inf\]"):
        losses.BinaryFocalCrossentropy(gamma=-1)
    with pytest.raises(ValueError, match=r"alpha: got 2; .* \[0, 1\]"):
        losses.BinaryFocalCrossentropy(alpha=2)
    with pytest.raises(ValueError, match="reduction: got 'sum'"):
        losses.MeanSquaredError(reduction="sum")
    with pytest.raises(TypeError, match="argument of MeanSquaredError: got 'from_logits'"):
        losses.MeanSquaredError(from_logits=False)
    with pytest.raises(ValueError, match=r"loss: got 'mean_sqared_error'.*'mean_squared_error'"):
        losses.get("mean_sqared_error")
    with pytest.raises(TypeError, match="loss: got None"):
        losses.get(None)
    with pytest.raises(TypeError, match="loss: got <function"):
        losses.get(lambda y, p: 0.0)


def test_huber_is_called_as_in_keras():
    assert losses.get("huber") == losses.Huber()
    assert losses.Huber(name="huber_loss") == losses.Huber()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ties_of_the_categorical_hinge_share_the_slope(dtype):
    """As in Keras on JAX, PyTorch and TensorFlow; behind relu most outputs are 0."""
    y, p = np.array([[0, 1, 0, 0]], dtype), np.zeros((1, 4), dtype)
    expected = [[0.25, -1, 0.25, 0.25]]  # (1 - y) p is 0 at the class itself, too
    np.testing.assert_allclose(losses.CategoricalHinge().gradient(y, p), expected)


@pytest.mark.parametrize("loss", [losses.CosineSimilarity(), losses.Quantile(0.9)], ids=repr)
def test_a_row_of_zeros_has_a_finite_gradient(loss):
    gradient = loss.gradient(np.array([[3.0, 4.0]]), np.zeros((1, 2)))
    assert np.isfinite(gradient).all() and gradient.any()


def model_for(loss, rate=0.2, **options):
    """A small network in float64 whose head gives what the loss takes."""
    head = {True: "linear", False: "sigmoid"}[loss.settings.from_logits]
    if "categorical" in loss.name and not loss.settings.from_logits:
        head = "softmax"
    seeded = fr.initializers.GlorotUniform
    layers = [
        fr.Input((5,), dtype="float64"),
        fr.Dense(7, "tanh", kernel_initializer=seeded(seed=1)),
        *([fr.Dropout(rate, seed=3)] if rate else []),
        fr.Dense(
            4,
            head,
            kernel_initializer=seeded(seed=2),
            kernel_regularizer="l2",
            activity_regularizer="l1",
        ),
    ]
    model = fr.Sequential(layers, **options)
    model.compile(fr.SGD(0.05, momentum=0.5), loss)
    return model


def rows_for(loss, rng, n=70):
    y, _ = example(loss, rng, n)
    return rng.normal(size=(n, 5)), y, rng.uniform(0, 2, n)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_both_backends_and_any_threads_train_with_it(loss, rng):
    x, y, w = rows_for(loss, rng)
    fits = {}
    for name, options in (("one", {}), ("three", {}), ("twin", {"backend": "reference"})):
        model = model_for(loss, **options)
        model.compile(model.optimizer, loss, n_threads=3 if name == "three" else 1)
        history = model.fit(x, y, 16, 3, sample_weight=w, shuffle=False, verbose=0).history
        fits[name] = [*model.get_weights(), np.array(history["loss"])]
    for one, three, twin in zip(*fits.values(), strict=True):
        assert one.tobytes() == three.tobytes()
        np.testing.assert_allclose(one, twin, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("loss", EVERY, ids=repr)
def test_where_models_go_the_settings_go(loss, rng, tmp_path):
    x, y, w = rows_for(loss, rng)
    model = model_for(loss, rate=0)
    logs = model.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True)
    # crossentropies of sigmoid and softmax come from the logits, not from what predict gives
    expected = pytest.approx(loss(y, model.predict(x), w), rel=1e-9)
    assert logs["data_loss"] == expected
    objective = model.objective(x, y, w)
    assert objective.at(objective.start).value == pytest.approx(logs["loss"], rel=1e-12)
    model.save(tmp_path / "model.safetensors")
    loaded = fr.load_model(tmp_path / "model.safetensors")
    assert loaded.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True) == logs
    model.polish(x, y, max_iter=5, verbose=0)
    assert model.evaluate(x, y, verbose=0) <= loaded.evaluate(x, y, verbose=0)
    model.compile(fr.LBFGS(), loss)
    before = model.evaluate(x, y, verbose=0)
    assert model.fit(x, y, epochs=3, verbose=0).history["loss"][-1] <= before


def test_class_weights_go_with_losses_of_classes_alone():
    x, y = np.zeros((4, 5)), np.array([[0.0], [1.0], [1.0], [0.0]])
    for loss in ("huber", "quantile", "mae", "cosine_similarity"):
        model = fr.Sequential([fr.Input((5,)), fr.Dense(1)])
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=f"class_weight: got {losses.get(loss).name} with 1"):
            model.fit(x, y, class_weight={1: 2.0}, verbose=0)
    model = fr.Sequential([fr.Input((5,)), fr.Dense(1, "sigmoid")])
    model.compile("sgd", losses.BinaryFocalCrossentropy(gamma=1.5))
    weighted = model.evaluate(x, y, sample_weight=[1, 2, 2, 1], verbose=0)
    assert model.train_on_batch(x, y, class_weight={1: 2.0}) == pytest.approx(weighted)
    with pytest.raises(ValueError, match=r"y: got 2; targets in \[0, 1\]"):
        model.fit(x, 2 * y, verbose=0)
