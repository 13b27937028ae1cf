"""A fit that is killed goes on from its checkpoint, and ends with the very same bits."""

import tempfile
from pathlib import Path

import numpy as np

import fastreg as fr

x_train, y_train, _, _ = fr.datasets.load_digits()


def make() -> fr.Sequential:
    fr.set_random_seed(0)
    hidden = fr.Dense(32, activation="relu", kernel_regularizer="l2")
    output = fr.Dense(10, activation="softmax")
    model = fr.Sequential([fr.Input((64,)), hidden, fr.Dropout(0.2), output])
    model.compile(fr.Adam(1e-3), "sparse_categorical_crossentropy")
    return model


def die(batch: int, logs: object) -> None:
    if killed.optimizer.iterations == 100:  # in the middle of the third epoch
        raise KeyboardInterrupt


whole = make()
whole.fit(x_train, y_train, epochs=6, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "digits.safetensors"
    killed = make()
    saving = fr.ModelCheckpoint(path, save_freq=30)
    try:
        dying = fr.LambdaCallback(on_train_batch_end=die)
        killed.fit(x_train, y_train, epochs=6, verbose=0, callbacks=[saving, dying])
    except KeyboardInterrupt:
        print(f"killed after step {killed.optimizer.iterations}")

    resumed = fr.load_model(path)
    print(f"goes on after step {resumed.optimizer.iterations}")
    resumed.fit(x_train, y_train, epochs=6, verbose=0, resume=True)

pairs = zip(whole.get_weights(), resumed.get_weights(), strict=True)
same = all(np.array_equal(a, b) for a, b in pairs)
print(f"after step {resumed.optimizer.iterations} all weights are the same bits: {same}")
assert same
