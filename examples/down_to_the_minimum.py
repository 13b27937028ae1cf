"""LBFGS goes over all rows at once, and with L1 stops at the Lasso's very zeros."""

import numpy as np

import fastreg as fr

x, y, truth = fr.datasets.sparse_regression(n=200, n_in=50, n_informative=5, noise=0.5)
model = fr.Sequential(
    [fr.Input((50,), dtype="float64"), fr.Dense(1, kernel_regularizer=fr.L1(0.3))]
)
model.compile(fr.LBFGS(tol=1e-9), "mse")
history = model.fit(x, y, epochs=200, verbose=0).history
kernel = model.layers[0].kernel[:, 0]
print(f"{len(history['loss'])} iterations, loss {history['loss'][-1]:.6f}")
print(f"inputs with a weight: {np.flatnonzero(kernel)}; with a true one: {np.flatnonzero(truth)}")
assert len(history["loss"]) < 200 and set(np.flatnonzero(truth)) <= set(np.flatnonzero(kernel))
