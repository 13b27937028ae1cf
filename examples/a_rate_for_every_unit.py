"""A target rate: under KLSparsity every unit of a code has its share, under L1 some have all."""

import numpy as np

import fastreg as fr

x, *_ = fr.datasets.load_digits()


def train(regularizer):
    """Loss of reconstruction, and the rate of each unit over the digits."""
    fr.set_random_seed(0)
    code = fr.Dense(100, "sigmoid", activity_regularizer=regularizer)
    model = fr.Sequential([fr.Input((64,)), code, fr.Dense(64)])
    model.compile(fr.Adam(0.005), "mse")
    history = model.fit(x, x, batch_size=128, epochs=60, verbose=0).history
    kernel, bias = code.get_weights()
    return history["data_loss"][-1], (1 / (1 + np.exp(-x @ kernel - bias))).mean(axis=0)


found = {
    "L1": train(fr.L1(1e-3)),
    "KLSparsity": train(fr.KLSparsity(0.01, rate=0.05)),  # Ng 2011: beta, rho
}
print("              loss   rates of units: least, mean, most")
for name, (loss, rates) in found.items():
    print(f"{name:11} {loss:.4f}   {rates.min():17.3f} {rates.mean():8.3f} {rates.max():5.3f}")
assert np.ptp(found["KLSparsity"][1]) < np.ptp(found["L1"][1]) / 5
