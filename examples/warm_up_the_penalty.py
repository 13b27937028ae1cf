"""Schedules: an activity L1 that warms up leaves more units of a code alive than one at once."""

import fastreg as fr

Schedules = fr.optimizers.schedules
x, *_ = fr.datasets.load_digits()
EPOCHS, BATCH = 60, 64
STEPS = EPOCHS * (len(x) // BATCH + 1)


def train(l1):
    """Loss of reconstruction, units that ever answer, how many do on a digit."""
    fr.set_random_seed(0)
    code = fr.Dense(100, "relu", activity_regularizer=fr.L1(l1))
    model = fr.Sequential([fr.Input((64,)), code, fr.Dense(64)])
    rate = Schedules.CosineDecay(0.0, STEPS, warmup_target=0.01, warmup_steps=50)
    model.compile(fr.Adam(rate), "mse")
    history = model.fit(x, x, batch_size=BATCH, epochs=EPOCHS, verbose=0).history
    kernel, bias = code.get_weights()
    active = x @ kernel + bias > 0
    return history["data_loss"][-1], int(active.any(axis=0).sum()), active.sum(axis=1).mean()


at_once = train(1e-2)
warmed_up = train(Schedules.PolynomialDecay(0.0, STEPS // 2, end_learning_rate=1e-2))
print("                 loss   units alive   active on a digit")
for name, (loss, alive, active) in {"L1 at once": at_once, "L1 warmed up": warmed_up}.items():
    print(f"{name:14} {loss:.4f}   {alive:11}   {active:17.1f}")
assert warmed_up[1] > at_once[1]
