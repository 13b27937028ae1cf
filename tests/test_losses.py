"""Losses: Keras' values on predictions, sample weights, names and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from fastreg import inputs, losses

CLIP = 1e-7
ALL = [cls() for cls in losses.REGISTRY.classes]


def rows(name, y, p):
    """The loss of each row, as Keras 3.15 writes it."""
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
    if name == "binary_crossentropy":
        p = np.clip(p, CLIP, 1 - CLIP)
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=-1)
    p = np.clip(p / p.sum(axis=-1, keepdims=True), CLIP, 1 - CLIP)
    if name == "sparse_categorical_crossentropy":
        y = np.eye(p.shape[1])[y]
    return -(y * np.log(p)).sum(axis=-1)


def example(name, rng, n=9, n_out=4):
    """Targets and predictions; probabilities incl. one that is clipped at each end."""
    p = rng.uniform(0.01, 1.0, (n, n_out))
    if name in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        p /= p.sum(axis=1, keepdims=True)
    p[0] = 0.0
    p[0, 1] = 1.0
    if name == "mean_squared_error":
        return rng.standard_normal((n, n_out)), p
    if name in ("binary_crossentropy", "hinge", "squared_hinge"):
        return rng.integers(0, 2, (n, n_out)).astype("float64"), p
    if name in inputs.LOSSES[4:]:
        return rng.uniform(0.01, 1, (n, n_out)), p
    labels = rng.integers(0, n_out, n).astype("int32")
    return (labels, p) if name.startswith("sparse") else (np.eye(n_out)[labels], p)


def test_every_loss_of_the_engine_has_its_class():
    assert [loss.name for loss in ALL] == list(inputs.LOSSES)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_value(loss, weighted, rng):
    y, p = example(loss.name, rng)
    w = rng.uniform(0, 2, len(p)) if weighted else None
    expected = (rows(loss.name, y, p) * (1 if w is None else w)).sum() / len(p)
    assert isinstance(loss(y, p, w), float)
    assert loss(y, p, w) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_gradient_is_the_slope_of_the_value(loss, rng):
    y, p = example(loss.name, rng)
    y, p = y[1:], p[1:]  # away from the clip
    w = rng.uniform(0, 2, len(p))
    step = 1e-6
    slope = np.empty_like(p)
    for at in np.ndindex(p.shape):
        d = np.zeros_like(p)
        d[at] = step
        slope[at] = (loss(y, p + d, w) - loss(y, p - d, w)) / (2 * step)
    np.testing.assert_allclose(loss.gradient(y, p, w), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("loss", ALL, ids=repr)
def test_configuration_round_trip(loss):
    assert type(loss).from_config(loss.get_config()) == loss
    assert losses.get(losses.serialize(loss)) == loss
    keras = {"name": loss.name, "reduction": "sum_over_batch_size"}
    assert losses.get({"class_name": type(loss).__name__, "config": keras}) == loss
    assert eval(repr(loss), vars(losses)) == loss
    assert hash(loss) == hash(type(loss)())


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
    with pytest.raises(ValueError, match=r"from_logits: got True; .* supports only False"):
        losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match=r"label_smoothing: got 0.1"):
        losses.CategoricalCrossentropy(label_smoothing=0.1)
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
