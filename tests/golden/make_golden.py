"""Ask Keras, PyTorch and scikit-learn for the fixed answers that tests/test_golden.py replays.

    .venv/bin/python tests/golden/make_golden.py [file ...]     (needs the three; ten minutes)

The files are keras, keras_float32, keras_layers, keras_optimizers, keras_steps, keras_vocabulary,
torch, torch_activations and sklearn; all unless some are named.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    sys.path.insert(0, str(HERE.parent))
    from golden import cases, peers

    design = cases.design(seed=1000)
    files = {
        "torch": (peers.torch_cases(), peers.train_torch),
        "sklearn": (peers.sklearn_cases(), peers.train_sklearn),
        "keras_float32": (
            [case for case in design if cases.needs_own_float32(case)],
            partial(peers.train_keras, dtype="float32"),
        ),
        "keras": (design, peers.train_keras),
        "keras_steps": (cases.step_cases(seed=7000), peers.train_keras),
        "keras_layers": (cases.layer_cases(seed=9000), peers.train_keras),
        "keras_vocabulary": (cases.vocabulary_cases(seed=9000, n=36), peers.train_keras),
        "torch_activations": (peers.torch_activation_cases(), peers.train_torch),
        "keras_optimizers": (cases.optimizer_cases(seed=5000), peers.train_keras),
    }
    for name in names or files:
        asked, ask = files[name]
        answered = []
        for case in asked:
            answered.append((case, ask(case)))
            print(f"{name}: {len(answered)}/{len(asked)} {cases.describe(case)}", flush=True)
        cases.save(HERE / f"{name}.npz", answered)


if __name__ == "__main__":
    main(sys.argv[1:])
