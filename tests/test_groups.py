"""Group penalties: the functions, the steps of both networks, the minimum, and whole models."""

import itertools

import numpy as np
import pytest

import fastreg as fr
from fastreg import _engine, functional, inputs, reference

GROUPINGS = ["rows", "columns", [[3, 1], [0, 4], [2]], [[4, 2]]]
DTYPES = ["float32", "float64"]
OPTIMIZERS = {
    "sgd": {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.0, "nesterov": False},
    "nesterov": {"kind": "sgd", "learning_rate": 0.02, "momentum": 0.9, "nesterov": True},
    # an epsilon that a gradient's rounding cannot compete with
    "adam": {
        "kind": "adam",
        "learning_rate": 0.01,
        "beta_1": 0.9,
        "beta_2": 0.99,
        "epsilon": 1e-3,
    },
}
OPTIMIZERS["amsgrad"] = OPTIMIZERS["adam"] | {"amsgrad": True}
OPTIMIZERS["nadam"] = OPTIMIZERS["adam"] | {"kind": "nadam"}
OPTIMIZERS["adamax"] = OPTIMIZERS["adam"] | {"kind": "adamax"}
OPTIMIZERS["adagrad"] = {
    "kind": "adagrad",
    "learning_rate": 0.05,
    "initial_accumulator_value": 0.1,
    "epsilon": 1e-7,
}
OPTIMIZERS["rmsprop"] = {
    "kind": "rmsprop",
    "learning_rate": 0.01,
    "rho": 0.9,
    "momentum": 0.5,
    "epsilon": 1e-3,
    "centered": False,
}


def kernel(n_in, n_out, dtype="float64", seed=0):
    """With a row and a column of zeros."""
    w = np.random.default_rng(seed).normal(size=(n_in, n_out)).astype(dtype)
    w[2] = 0
    w[:, 1] = 0
    return w


# ------------------------------------------------ functions


@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (37, 41), (100, 16)])
def test_functions_equal_the_reference(shape, dtype, groups):
    w = kernel(*shape, dtype)
    eps = np.finfo(dtype).eps
    # A sum of m positive terms, a root and a product: relative errors of m eps / 2 at most, and
    # sums in lanes of far fewer; the numbers are of size 1.
    bound = 40 * eps
    for sizes in (None, 2.0):
        pair = [
            [
                module.group_penalty(w, 0.3, groups, sizes=sizes),
                module.group_penalty_gradient(w, 0.3, groups, sizes=sizes),
                module.group_prox(w, 0.5, 0.3, groups, l1=0.2, sizes=sizes),
            ]
            for module in (functional, reference)
        ]
        (value, gradient, prox), (value_, gradient_, prox_) = pair
        assert abs(value - value_) <= bound * value_
        assert np.abs(gradient - gradient_).max() <= bound * np.abs(gradient_).max()
        assert np.abs(prox - prox_).max() <= bound * np.abs(w).max()
        assert ((prox == 0) == (prox_ == 0)).all()
    assert (functional.group_prox(w, 1.0, 0.0, groups) == w).all()


@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
def test_penalty_is_the_formula_and_its_gradient_the_slope(groups):
    w = np.random.default_rng(1).normal(size=(5, 3))
    regularizer = fr.regularizers.GroupL1(0.3, groups, l1=0.1, l2=0.2)
    lists = {"rows": [[i] for i in range(5)]}.get(str(groups), groups)
    parts = list(w.T) if groups == "columns" else [w[list(rows)] for rows in lists]
    value = 0.3 * sum(np.sqrt(part.size) * np.linalg.norm(part) for part in parts)
    value += 0.1 * np.abs(w).sum() + 0.2 * (w**2).sum()
    assert regularizer(w) == pytest.approx(value, rel=1e-14)
    h, gradient = 1e-6, regularizer.gradient(w)
    for place in np.ndindex(w.shape):
        step = np.zeros_like(w)
        step[place] = h
        slope = (regularizer(w + step) - regularizer(w - step)) / (2 * h)
        assert slope == pytest.approx(gradient[place], abs=1e-8)
    assert not regularizer.gradient(np.zeros((5, 3))).any()


@pytest.mark.parametrize("module", [functional, reference])
@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
def test_prox_is_the_minimum(module, groups):
    """0 is a subgradient of |u - w|^2 / 2 + step (l1 |u| + penalty(u)) at the u it returns."""
    rng = np.random.default_rng(2)
    w = rng.normal(size=(5, 3))
    u = module.group_prox(w, 0.7, 0.6, groups, l1=0.3)
    objective = 0.5 * ((u - w) ** 2).sum() + 0.7 * (
        0.3 * np.abs(u).sum() + module.group_penalty(u, 0.6, groups)
    )
    assert (u == 0).any()
    for scale in (1e-1, 1e-3, 1e-5):
        for _ in range(50):
            v = u + scale * rng.normal(size=u.shape) * rng.integers(0, 2, size=u.shape)
            other = 0.5 * ((v - w) ** 2).sum() + 0.7 * (
                0.3 * np.abs(v).sum() + module.group_penalty(v, 0.6, groups)
            )
            assert other >= objective - 1e-14
    out = w.copy()
    assert module.group_prox(out, 0.7, 0.6, groups, l1=0.3, out=out) is out and (out == u).all()


@pytest.mark.parametrize("module", [functional, reference])
def test_functions_refuse(module):
    w = np.ones((3, 2))
    for groups, message in [
        ("row", "Did you mean 'rows'"),
        ([], "got no group"),
        ([[0], []], r"groups\[1\]: got an empty list"),
        ([[0, 1], [1]], r"groups\[1\]: got input 1, which is in groups\[0\] already"),
        ([[0, 0]], "which is in"),
        ([[3]], "got input 3; the kernel has 3 inputs"),
        ([[-1]], "groups"),
    ]:
        with pytest.raises(ValueError, match=message):
            module.group_penalty(w, 0.1, groups)
    for groups in (3, [1, 2], ["a"], {"a": 1}, [[0.5]]):
        with pytest.raises(TypeError, match="groups"):
            module.group_penalty(w, 0.1, groups)
    for arguments in ({"group_l1": -1.0}, {"group_l1": np.nan}, {"group_l1": 1.0, "sizes": 0}):
        with pytest.raises(ValueError, match=next(reversed(arguments))):
            module.group_penalty(w, **arguments)
    with pytest.raises(ValueError, match="sizes: got 1"):
        module.group_penalty(w, 0.1, [[0], [1]], sizes=[1.0])
    with pytest.raises(ValueError, match="w: got shape"):
        module.group_penalty(np.ones(3), 0.1)
    with pytest.raises(ValueError, match="step"):
        module.group_prox(w, -1.0, 0.1)
    with pytest.raises(ValueError, match="overlaps"):
        module.group_penalty_gradient(w, 0.1, out=w)


# ------------------------------------------------ steps


def network(cls, dtype, groups, l1, sizes=(37, 40, 5), trainable=True):
    layers = []
    for number, shape in enumerate(itertools.pairwise(sizes)):
        layers.append(
            {
                "kind": "dense",
                "n_in": shape[0],
                "n_out": shape[1],
                "use_bias": True,
                "activation": "linear" if number else "tanh",
                "trainable": trainable or number > 0,
                "kernel_l1": l1,
                "kernel_l2": 0.01,
                "bias_l1": 0.01,
                "bias_l2": 0.0,
                "activity_l1": 0.0,
                "activity_l2": 0.0,
                "kernel_groups": inputs.resolve_groups(shape, 0.02, groups),
            }
        )
    made = cls(layers, dtype)
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=w.shape).astype(dtype) * 0.3 for w in made.get_weights()]
    weights[0][4] = 0
    made.set_weights(weights)
    return made


def train(made, dtype, optimizer, n_threads=1, epochs=4):
    rng = np.random.default_rng(4)
    x, y = (rng.normal(size=(64, n)).astype(dtype) for n in (37, 5))
    ledger = np.zeros(6)
    for epoch in range(epochs):
        made.train(
            *(x, y, None, None, 0, 64, 20, "mean_squared_error", optimizer, 4 * epoch, 0),
            *(None, ledger, n_threads),
        )
    made.evaluate(x, y, None, 0, 64, 64, "mean_squared_error", None, ledger, n_threads)
    return ledger


@pytest.mark.parametrize("l1_step", ["sign", "proximal"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_equals_the_reference(dtype, groups, optimizer, l1_step):
    settings = {**OPTIMIZERS[optimizer], "weight_decay": 0.1, "l1_step": l1_step}
    for l1, trainable in ((0.0, True), (0.003, False), (0.003, True)):
        pair = [
            network(cls, dtype, groups, l1, trainable=trainable)
            for cls in (_engine.Network, reference.Network)
        ]
        ledgers = [train(made, dtype, settings) for made in pair]
        # 16 steps of sums of up to 40 terms of size 1; measured: 2e-15 and 3e-6
        bound = 1e-13 if dtype == "float64" else 2e-5
        for a, b in zip(*(made.get_weights() for made in pair), strict=True):
            assert np.abs(a - b).max() < bound
            assert ((a == 0) == (b == 0)).all()
        for slots in zip(*(made.get_slots() for made in pair), strict=True):
            for a, b in zip(*slots, strict=True):
                assert np.abs(a - b).max() < bound
        assert np.allclose(*ledgers, rtol=bound, atol=0)


@pytest.mark.parametrize("groups", GROUPINGS, ids=str)
@pytest.mark.parametrize("l1_step", ["sign", "proximal"])
def test_one_result_for_all_numbers_of_threads(groups, l1_step):
    settings = {**OPTIMIZERS["adam"], "weight_decay": 0.0, "l1_step": l1_step}
    sizes = (37, 600, 5)  # many tasks, and enough work for threads
    found = []
    for n_threads in (1, 2, 3, 8):
        made = network(_engine.Network, "float32", groups, 0.001, sizes)
        ledger = train(made, "float32", settings, n_threads)
        found.append(b"".join(w.tobytes() for w in [*made.get_weights(), ledger]))
    assert len(set(found)) == 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nothing_of_a_group_is_as_without(optimizer):
    """A coefficient of 0: the three phases give the bits of two."""
    settings = {**OPTIMIZERS[optimizer], "weight_decay": 0.0, "l1_step": "sign"}
    found = []
    for group_l1 in (None, 0.0):
        shape, layer = (37, 5), {}
        if group_l1 is not None:
            layer["kernel_groups"] = inputs.resolve_groups(shape, group_l1, "columns")
        layer |= {"kind": "dense", "n_in": 37, "n_out": 5, "use_bias": True, "trainable": True}
        layer |= {"activation": "linear", "kernel_l1": 0.01, "kernel_l2": 0.02}
        made = _engine.Network([layer], "float32")
        made.set_weights([np.full(shape, 0.1, "float32"), np.zeros(5, "float32")])
        train(made, "float32", settings)
        found.append([w.tobytes() for w in made.get_weights()])
    assert found[0] == found[1]


# ------------------------------------------------ the minimum


def problem(n=120, n_in=8, n_out=3):
    """Half of the inputs matter, and for two of three outputs."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, n_in)) * np.linspace(0.5, 2, n_in)
    w = rng.normal(size=(n_in, n_out)) * (np.arange(n_in) % 2)[:, np.newaxis] * [1, 1, 0]
    return x, x @ w + 0.1 * rng.normal(size=(n, n_out))


LASSO_GROUPS = {"rows": "rows", "columns": "columns", "lists": [[0, 2], [1, 3], [4, 6], [5]]}
STRENGTH = {"rows": 0.1, "columns": 0.1, "lists": 0.1}


def group_lasso(x, y, groups, group_l1, l1):
    """FISTA with restarts (O'Donoghue and Candes 2015) on mean (xw - y)^2 and the penalties.

    Its prox is written out with loops: nothing here is the library's.
    """
    step = y.size / (2 * np.linalg.norm(x, 2) ** 2)
    lists = [[i] for i in range(x.shape[1])] if groups == "rows" else groups
    w = before = v = np.zeros((x.shape[1], y.shape[1]))
    t = 1.0
    for _ in range(20000):
        u = v - step * 2 * x.T @ (x @ v - y) / y.size
        u = np.sign(u) * np.maximum(np.abs(u) - step * l1, 0)
        for part in u.T if groups == "columns" else []:
            norm = np.linalg.norm(part)
            part *= max(0, 1 - step * group_l1 * np.sqrt(part.size) / norm) if norm else 0
        for rows in lists if groups != "columns" else []:
            norm, size = np.linalg.norm(u[rows]), u[rows].size
            u[rows] *= max(0, 1 - step * group_l1 * np.sqrt(size) / norm) if norm else 0
        before, w = w, u
        if ((v - w) * (w - before)).sum() > 0:
            t = 1.0
        grown = (1 + np.sqrt(1 + 4 * t * t)) / 2
        v, t = w + (t - 1) / grown * (w - before), grown
        if np.abs(w - before).max() < 1e-15:
            break
    return w


def linear_model(regularizer, optimizer, **options):
    x, y = problem()
    dense = fr.Dense(y.shape[1], use_bias=False, kernel_regularizer=regularizer)
    model = fr.Sequential([fr.Input((x.shape[1],), dtype="float64"), dense], **options)
    model.compile(optimizer, "mse")
    return model, x, y


@pytest.mark.parametrize("l1", [0.0, 0.05])
@pytest.mark.parametrize("kind", LASSO_GROUPS)
@pytest.mark.parametrize(
    "optimizer",
    [
        fr.SGD(0.2, l1_step="proximal"),
        fr.SGD(0.1, momentum=0.8, l1_step="proximal"),
        fr.SGD(0.1, momentum=0.8, nesterov=True, l1_step="proximal"),
        fr.Adam(0.01, beta_2=0.99, l1_step="proximal"),
        fr.Adam(0.2, beta_2=0.99, amsgrad=True, l1_step="proximal"),
        fr.RMSprop(0.01, rho=0.99, l1_step="proximal"),
        fr.Adagrad(2.0, l1_step="proximal"),
    ],
    ids=["sgd", "momentum", "nesterov", "adam", "amsgrad", "rmsprop", "adagrad"],
)
def test_minimum_is_the_group_lasso(optimizer, kind, l1):
    groups, group_l1 = LASSO_GROUPS[kind], STRENGTH[kind]
    optimizer = type(optimizer).from_config(optimizer.get_config())
    regularizer = fr.regularizers.GroupL1(group_l1, groups, l1=l1)
    model, x, y = linear_model(regularizer, optimizer)
    # What Adam and RMSprop divide by shrinks with the gradients; the others settle at their rate.
    fades = isinstance(optimizer, (fr.Adam, fr.RMSprop)) and optimizer.learning_rate == 0.01
    for rate in (0.01, 1e-3, 1e-4, 1e-5) if fades else (optimizer.learning_rate,):
        optimizer.learning_rate = rate
        model.fit(x, y, batch_size=len(x), epochs=1500, shuffle=False, verbose=0)
    want = group_lasso(x, y, groups, group_l1, l1)
    got = model.get_weights()[0]
    # their minimum is where the last, small rate holds it
    assert np.abs(got - want).max() < (1e-4 if fades else 1e-10)
    assert ((got == 0) == (want == 0)).all()
    assert 0 < (want == 0).sum() < want.size
    report = fr.sparsity_report(model, x, y)
    assert report["kkt_residual"] < (1e-3 if fades else 1e-9)
    assert report["objective"] == pytest.approx(
        ((x @ want - y) ** 2).mean() + regularizer(want), abs=1e-8
    )


@pytest.mark.parametrize("l1", [0.0, 0.05])
@pytest.mark.parametrize("kind", LASSO_GROUPS)
def test_polish_and_its_residual(kind, l1):
    groups, group_l1 = LASSO_GROUPS[kind], STRENGTH[kind]
    model, x, y = linear_model(fr.regularizers.GroupL1(group_l1, groups, l1=l1), "sgd")
    before = fr.sparsity_report(model, x, y)["kkt_residual"]
    done = model.polish(x, y, tol=1e-9, verbose=0)
    want = group_lasso(x, y, groups, group_l1, l1)
    assert done.converged and before > 1e-2
    assert np.abs(model.get_weights()[0] - want).max() < 1e-7
    assert ((model.get_weights()[0] == 0) == (want == 0)).all()


# ------------------------------------------------ a model


def test_sign_step_follows_the_gradient():
    """A step of SGD with rate 1 moves the kernel by the central differences of the loss."""
    regularizer = fr.regularizers.GroupL1(0.3, [[0, 2], [1]], l1=0.1, l2=0.05)
    model, x, y = linear_model(regularizer, fr.SGD(1.0))
    (w,) = model.get_weights()
    model.train_on_batch(x, y)
    moved = w - model.get_weights()[0]
    h = 1e-6
    for place in [(0, 1), (2, 2), (1, 0), (7, 2)]:
        losses = []
        for sign in (1, -1):
            there = w.copy()
            there[place] += sign * h
            model.set_weights([there])
            losses.append(model.evaluate(x, y, verbose=0))
        assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(moved[place], abs=1e-7)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_cumulative_and_wrong_places_are_refused(backend):
    model, x, y = linear_model("group_l1", fr.SGD(l1_step="cumulative"), backend=backend)
    before = model.get_weights()
    with pytest.raises(ValueError, match="takes 'sign' or 'proximal'"):
        model.fit(x, y, verbose=0)
    assert (model.get_weights()[0] == before[0]).all()
    for name in ("bias_regularizer", "activity_regularizer"):
        with pytest.raises(ValueError, match=f"{name}: .*GroupL1 is for kernels"):
            fr.Dense(2, **{name: "group_l1"})
    wrong = fr.Dense(1, kernel_regularizer=fr.regularizers.GroupL1(groups=[[0], [2]]), name="bad")
    with pytest.raises(ValueError, match=r"kernel_regularizer of layer 'bad': .* has 2 inputs"):
        fr.Sequential([fr.Input((2,)), wrong])


@pytest.mark.parametrize(
    "optimizer",
    [fr.Lion, fr.Adadelta, fr.Ftrl, lambda **common: fr.RMSprop(centered=True, **common)],
    ids=["lion", "adadelta", "ftrl", "centered"],
)
def test_optimizers_without_a_threshold_step_by_sign(optimizer):
    model, x, y = linear_model("group_l1", optimizer(l1_step="proximal"))
    before = model.get_weights()
    with pytest.raises(ValueError, match="'sign' is needed"):
        model.fit(x, y, verbose=0)
    assert (model.get_weights()[0] == before[0]).all()
    pair = []
    for backend in ("compiled", "reference"):
        model, x, y = linear_model("group_l1", optimizer(), backend=backend)
        model.set_weights(before)
        model.fit(x, y, epochs=3, verbose=0, shuffle=False)
        pair.append(model.get_weights()[0])
    assert np.abs(pair[0] - pair[1]).max() < 1e-12
    assert (pair[0] != before[0]).any()


def test_configuration_and_words():
    plain = fr.regularizers.get("group_l1")
    assert plain == fr.regularizers.GroupL1(0.01, "rows")
    lists = fr.regularizers.GroupL1(0.5, [[2, 0], [1]], l1=0.1, l2=0.2, sizes=[4, 2])
    for regularizer in (plain, lists):
        config = fr.regularizers.serialize(regularizer)
        assert fr.regularizers.deserialize(config) == regularizer
        assert hash(regularizer) == hash(fr.regularizers.deserialize(config))
    assert repr(plain) == "GroupL1(group_l1=0.01, groups='rows', l1=0.0, l2=0.0)"
    model, *_ = linear_model(lists, "sgd")
    lines = []
    model.summary(lines.append)
    assert any(str(lists) in line for line in lines)
    same = fr.Sequential.from_config(model.get_config())
    assert same.layers[0].kernel_regularizer == lists


def test_save_and_load(tmp_path):
    pytest.importorskip("safetensors")
    optimizer = fr.Adam(l1_step="proximal")
    model, x, y = linear_model(fr.regularizers.GroupL1(0.01, [[0, 2], [1]]), optimizer)
    model.fit(x, y, epochs=2, verbose=0, shuffle=False)
    model.save(tmp_path / "model.safetensors")
    same = fr.load_model(tmp_path / "model.safetensors")
    for each in (model, same):
        each.fit(x, y, epochs=2, verbose=0, shuffle=False)
    assert (model.get_weights()[0] == same.get_weights()[0]).all()


def test_frozen_layers_have_no_penalty():
    model, x, y = linear_model(fr.regularizers.GroupL1(0.5), fr.SGD(l1_step="cumulative"))
    model.trainable = False
    before = model.get_weights()[0]
    logs = model.fit(x, y, verbose=0).history
    assert logs["kernel_penalty"] == [0.0] and (model.get_weights()[0] == before).all()


@pytest.mark.parametrize("groups", ["rows", "columns", [[0, 3], [1, 2], [4]]], ids=str)
def test_compact_keeps_the_objective(groups):
    fr.set_random_seed(1)  # under which the unit that has gone does not come back by its bias
    hidden = fr.Dense(
        6, "relu", kernel_regularizer=fr.regularizers.GroupL1(0.3, groups, l1=0.1), name="hidden"
    )
    output = fr.Dense(2, kernel_regularizer=fr.regularizers.GroupL1(0.2, "rows"))
    model = fr.Sequential([fr.Input((5,), dtype="float64"), hidden, output])
    kernel, bias, after, last = model.get_weights()
    kernel[[0, 3, 4]] = 0
    kernel[1:3, 2] = 0
    after[2] = 0
    model.set_weights([kernel, bias, after, last])
    model.compile(fr.SGD(0.1, l1_step="proximal"), "mse")
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 2))
    small = fr.compact(model)
    assert [w.shape for w in small.get_weights()] == [(2, 5), (5,), (5, 2), (2,)]
    assert np.allclose(small.predict(x), model.predict(x), rtol=1e-13)
    logs = [each.evaluate(x, y, verbose=0, return_dict=True) for each in (model, small)]
    assert logs[0]["kernel_penalty"] == pytest.approx(logs[1]["kernel_penalty"], rel=1e-13)
    kept = small.layers[0].kernel_regularizer
    if not isinstance(groups, str):
        assert kept.groups == ((0, 1),) and kept.sizes == (12.0,)
    else:
        assert kept.sizes == (6 if groups == "rows" else 5)
    again = fr.compact(small).layers[0].kernel_regularizer
    assert again == kept
    # the same steps: what has gone stays 0 in the model that has it
    for each in (model, small):
        each.fit(x, y, epochs=3, batch_size=40, shuffle=False, verbose=0)
    whole = model.get_weights()[0]
    units = [0, 1, 3, 4, 5]
    rows = [1, 2]
    if not whole[[0, 3, 4]].any() and not whole[:, 2].any():
        assert np.allclose(whole[np.ix_(rows, units)], small.get_weights()[0], atol=1e-12)


def test_of_part_without_groups_left():
    regularizer = fr.regularizers.GroupL1(0.3, [[0]], l1=0.1, l2=0.2)
    rows, columns = np.array([False, True]), np.array([True])
    assert regularizer.of_part(rows, columns) == fr.regularizers.L1L2(0.1, 0.2)


def test_whole_inputs_go_where_only_some_matter():
    """Noise inputs end as rows of exact zeros, and Compact takes them out during fit."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(400, 12)).astype("float32")
    y = np.tanh(x[:, :2] @ np.array([[1.0], [-1.0]])) + 0.05 * rng.normal(size=(400, 1))
    fr.set_random_seed(0)
    hidden = fr.Dense(16, "tanh", kernel_regularizer=fr.regularizers.GroupL1(0.01))
    model = fr.Sequential([fr.Input((12,)), hidden, fr.Dense(1)])
    model.compile(fr.Adam(0.01, l1_step="proximal"), "mse")
    model.fit(x, y, batch_size=400, epochs=300, verbose=0, callbacks=[fr.Compact(50)])
    assert list(model.selected_inputs_) == [0, 1]
