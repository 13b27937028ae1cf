"""Normalization: six layers deep, inputs of any size, a rate that plain layers cannot bear."""

import numpy as np

import fastreg as fr

data = fr.datasets.load_digits()
n_in = data.x_train.shape[1]
scales = np.random.default_rng(0).uniform(0.1, 50.0, n_in)  # every input in a unit of its own


def deep(*between):
    """Six hidden layers, each followed by what `between` makes."""
    fr.set_random_seed(0)
    model = fr.Sequential([fr.Input((n_in,)), *[make() for make in between[:1]]])
    for _ in range(6):
        model.add(fr.Dense(64, use_bias=not between))
        for make in between:
            model.add(make())
        model.add(fr.Activation("relu"))
    model.add(fr.Dense(10, "softmax"))
    model.compile(fr.SGD(0.05, momentum=0.9), "sparse_categorical_crossentropy", ["accuracy"])
    return model


kinds = {
    "plain": (),
    "batch normalization": (fr.BatchNormalization,),
    "layer normalization": (fr.LayerNormalization,),
    "with noise": (fr.BatchNormalization, lambda: fr.GaussianNoise(0.1)),
}
right = {}
for name, between in kinds.items():
    model = deep(*between)
    try:
        model.fit(data.x_train * scales, data.y_train, epochs=15, verbose=0)
        right[name] = model.evaluate(data.x_test * scales, data.y_test, verbose=0)[1]
    except FloatingPointError:
        right[name] = 0.0
    print(f"{name:20} {right[name]:.1%} of the test digits are right")
assert min(right[name] for name in kinds if name != "plain") > 0.9 > right["plain"]
