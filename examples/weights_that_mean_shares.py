"""Constraints: weights that stay positive, so that a prediction is a sum of shares of its parts."""

import numpy as np

import fastreg as fr

rng = np.random.default_rng(0)
parts = np.abs(rng.normal(size=(6, 40)))  # six substances, each with a spectrum of 40 numbers
shares = rng.dirichlet(np.ones(6) * 0.5, size=500)
spectra = shares @ parts + rng.normal(scale=0.05, size=(500, 40))

found = {}
for name, constraint in {"free": None, "positive": "non_neg"}.items():
    fr.set_random_seed(0)
    mixing = fr.Dense(40, use_bias=False, kernel_constraint=constraint)
    model = fr.Sequential([fr.Input((6,)), mixing])
    rate = fr.optimizers.schedules.CosineDecay(0.05, 1500)
    model.compile(fr.Adam(rate, clipnorm=1.0, use_ema=constraint is None), "mse")
    model.fit(shares, spectra, batch_size=50, epochs=150, verbose=0)
    found[name] = mixing.kernel
    wrong = np.sqrt(np.mean((mixing.kernel - parts) ** 2))
    print(f"{name:9} smallest weight {mixing.kernel.min():7.4f}, off by {wrong:.4f}")
assert found["positive"].min() >= 0 > found["free"].min()
