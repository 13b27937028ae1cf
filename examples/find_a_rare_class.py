"""Metrics beside the loss: how well a rare class is ranked and found, while the weights change."""

import numpy as np

import fastreg as fr

fr.set_random_seed(0)
rng = np.random.default_rng(0)
x = rng.normal(size=(4000, 10)).astype("float32")
y = (x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=4000) > 2).astype("float32")
model = fr.Sequential([fr.Input((10,)), fr.Dense(32, "relu"), fr.Dense(1, "sigmoid")])
model.compile(
    "adam",
    loss="binary_crossentropy",
    metrics=["accuracy", "auc", "precision", fr.metrics.AUC(curve="PR", name="pr_auc")],
    weighted_metrics=[fr.metrics.BinaryAccuracy(name="balanced")],
)
share = y.mean()
both_count_half = {0: 0.5 / (1 - share), 1: 0.5 / share}
fit = model.fit(x[:3000], y[:3000], epochs=10, class_weight=both_count_half, verbose=0)
found = model.evaluate(x[3000:], y[3000:], verbose=0, return_dict=True)
print(f"share of the rare class: {share:.3f}")
for name in model.metrics_names[1:]:
    first, *_, last = fit.history[name]
    print(f"{name:>9}: epoch 1 {first:.3f}, epoch 10 {last:.3f}, new rows {found[name]:.3f}")
