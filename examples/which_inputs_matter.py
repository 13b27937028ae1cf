"""L1 that lands on zero finds the few inputs that matter, and their weights."""

import numpy as np

import fastreg as fr

x, y, truth = fr.datasets.sparse_regression(n=200, n_in=50, n_informative=5, noise=0.5)
model = fr.Sequential([fr.Input((50,)), fr.Dense(1, kernel_regularizer=fr.L1(0.3))])
model.compile(fr.SGD(0.05, l1_step="proximal"), "mse")
model.fit(x, y, batch_size=200, epochs=500, verbose=0)

found = model.layers[0].kernel[:, 0]
print("input   true  found")
for i in np.flatnonzero(truth):
    print(f"{i:5} {truth[i]:6.2f} {found[i]:6.2f}")
others = np.count_nonzero(found[truth == 0])
print(f"of the 45 inputs that say nothing, {others} got a weight")
assert found[truth != 0].all() and others == 0
