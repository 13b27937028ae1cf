"""A model trained here predicts the same in Keras and in PyTorch, whichever is installed."""

import numpy as np

import fastreg as fr

x_train, y_train, x_test, y_test = fr.datasets.load_breast_cancer()
hidden = fr.Dense(16, activation="tanh", kernel_regularizer=fr.L1(1e-3))
model = fr.Sequential([fr.Input((30,)), hidden, fr.Dense(1, activation="sigmoid")])
model.compile(fr.Adam(1e-2), "binary_crossentropy", ["accuracy"])
model.fit(x_train, y_train, epochs=20, verbose=0)
ours = model.predict(x_test)
print(f"accuracy on the test rows: {np.mean((ours[:, 0] > 0.5) == y_test):.3f}")

try:
    import torch

    theirs = model.to_torch().eval()(torch.tensor(x_test)).detach().numpy()
    print(f"PyTorch differs by {np.abs(theirs - ours).max():.1e}")
    assert np.allclose(theirs, ours, atol=1e-6)
except ImportError:
    print("no PyTorch here: pip install torch")

try:
    theirs = np.asarray(model.to_keras()(x_test))
    print(f"Keras differs by {np.abs(theirs - ours).max():.1e}")
    assert np.allclose(theirs, ours, atol=1e-6)
except ImportError:
    print("no Keras here: pip install keras jax")
