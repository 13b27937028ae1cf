"""Where the middle of the data is and how wide: huber beside outliers, quantiles as a band."""

import matplotlib.pyplot as plt
import numpy as np

import fastreg as fr

rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, (1500, 1))
truth = np.sin(2 * x)
spread = 0.1 + 0.1 * (x + 2)  # wider to the right
y = truth + spread * rng.normal(size=x.shape)
outliers = rng.random(len(x)) < 0.08
y[outliers] += rng.uniform(2, 6, (outliers.sum(), 1))


def fit(loss):
    fr.set_random_seed(1)
    hidden = fr.Dense(32, activation="tanh", kernel_regularizer=fr.L2(1e-5))
    model = fr.Sequential([fr.Input((1,)), hidden, fr.Dense(1)])
    model.compile(fr.Adam(0.01), loss)
    model.fit(x, y, batch_size=64, epochs=200, verbose=0)
    return model


grid = np.linspace(-2, 2, 200)[:, None]
curves = {"mse": fit("mse"), "huber": fit(fr.losses.Huber(0.3))}
low, high = (fit(fr.losses.Quantile(quantile)) for quantile in (0.05, 0.85))

off = {name: np.abs(model.predict(x) - truth).mean() for name, model in curves.items()}
inside = np.mean((y >= low.predict(x)) & (y <= high.predict(x)))
for name, distance in off.items():
    print(f"{name:6} is off by {distance:.3f}")
print(f"{inside:.0%} of the rows lie within the band of 5% to 85%")
assert off["huber"] < off["mse"] / 3
assert abs(inside - 0.8) < 0.06

figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
axes.scatter(x, y, s=4, color="0.75", label="data, 8% of it far off")
band = [model.predict(grid)[:, 0] for model in (low, high)]
axes.fill_between(grid[:, 0], *band, color="C0", alpha=0.25, label="quantiles 0.05 to 0.85")
axes.plot(grid, np.sin(2 * grid), "k--", linewidth=1, label="what the data are around")
for (name, model), color in zip(curves.items(), ("C3", "C0"), strict=True):
    axes.plot(grid, model.predict(grid), color=color, label=f'loss "{name}"')
axes.set(xlabel="x", ylabel="y", ylim=(-2, 5))
axes.legend(loc="upper left", fontsize="small")
figure.savefig("bands.png", dpi=120)
