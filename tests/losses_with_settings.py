"""Losses with settings that are not the defaults, for the tests that walk the losses."""

from fastreg import losses

WITH_SETTINGS = [
    losses.Huber(0.4),
    losses.Quantile(0.85),
    losses.BinaryCrossentropy(from_logits=True),
    losses.BinaryCrossentropy(label_smoothing=0.2),
    losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3),
    losses.CategoricalCrossentropy(from_logits=True),
    losses.CategoricalCrossentropy(label_smoothing=0.2),
    losses.CategoricalCrossentropy(from_logits=True, label_smoothing=1.0),
    losses.SparseCategoricalCrossentropy(from_logits=True),
    losses.BinaryFocalCrossentropy(apply_class_balancing=True, alpha=0.7, gamma=0.5),
    losses.BinaryFocalCrossentropy(gamma=0.0),
    losses.BinaryFocalCrossentropy(gamma=1.0, label_smoothing=0.1),
    losses.BinaryFocalCrossentropy(True, 0.2, 3.5, from_logits=True),
]
