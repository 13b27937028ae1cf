"""Schedules: their values, and settings that follow them from step to step in both backends."""

from __future__ import annotations

import numpy as np
import pytest
from fastreg.optimizers.schedules import (
    CosineDecay,
    CosineDecayRestarts,
    ExponentialDecay,
    InverseTimeDecay,
    LearningRateSchedule,
    PiecewiseConstantDecay,
    PolynomialDecay,
)

import fastreg as fr
from fastreg import optimizers, schedules

EACH = [
    ExponentialDecay(0.1, 7, 0.3),
    ExponentialDecay(0.1, 7, 0.3, staircase=True),
    PiecewiseConstantDecay([3, 9], [0.1, 0.02, 0.3]),
    PolynomialDecay(0.1, 9, 0.01, power=2),
    PolynomialDecay(0.1, 4, 0.01, cycle=True),
    InverseTimeDecay(0.1, 5, 0.7),
    InverseTimeDecay(0.1, 5, 0.7, staircase=True),
    CosineDecay(0.1, 9, alpha=0.1),
    CosineDecay(0.01, 9, warmup_target=0.1, warmup_steps=4),
    CosineDecayRestarts(0.1, 4, t_mul=1.5, m_mul=0.8, alpha=0.05),
    CosineDecayRestarts(0.1, 4, t_mul=1.0),
]


@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_configuration_round_trip_and_values_one_by_one(schedule):
    again = schedules.deserialize(schedules.serialize(schedule))
    assert again == schedule
    assert repr(again) == repr(schedule) != repr(type(schedule))
    values = schedule.at(range(30))
    assert values.dtype == np.float64
    assert [schedule(step) for step in range(30)] == values.tolist()


def test_values_by_hand():
    assert PolynomialDecay(0.1, 4, 0.0, cycle=True).at([0, 4, 6, 8]).tolist() == [
        0.1,
        0.0,
        0.1 * (1 - 6 / 8),
        0.0,
    ]
    assert ExponentialDecay(1.0, 2, 0.5, staircase=True).at([0, 1, 2, 3]).tolist() == [
        1,
        1,
        0.5,
        0.5,
    ]
    warm = CosineDecay(0.0, 4, 0.5, warmup_target=1.0, warmup_steps=2)
    np.testing.assert_allclose(warm.at([0, 1, 2, 4, 6, 99]), [0, 0.5, 1, 0.75, 0.5, 0.5])
    np.testing.assert_allclose(
        CosineDecayRestarts(1.0, 2, 2.0, 0.5).at([0, 1, 2, 4, 6]), [1, 0.5, 0.5, 0.25, 0.25]
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ExponentialDecay(0.1, 0, 0.5), ValueError, "decay_steps: got 0"),
        (lambda: ExponentialDecay(0.1, 5, -0.5), ValueError, "decay_rate: got -0.5"),
        (lambda: PolynomialDecay("0.1", 5), TypeError, "initial_learning_rate: got '0.1'"),
        (lambda: PiecewiseConstantDecay([1, 2], [0.1, 0.2]), ValueError, "values: got 2 for 2"),
        (lambda: PiecewiseConstantDecay([2, 1], [0.1, 0.2, 0.3]), ValueError, "rising steps"),
        (lambda: PiecewiseConstantDecay(5, [0.1]), TypeError, "boundaries: got 5; a list"),
        (lambda: CosineDecayRestarts(0.1, 5, t_mul=0.5), ValueError, "t_mul: got 0.5"),
        (lambda: CosineDecay(0.1, 5, name=3), TypeError, "name: got 3"),
        (lambda: CosineDecay(0.1, 5)(-1), ValueError, "step: got -1"),
        (lambda: fr.SGD({"class_name": "CosinDecay"}), ValueError, "Did you mean .cosine_decay"),
        (lambda: LearningRateSchedule()(1), NotImplementedError, "must define __call__"),
    ],
)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_an_optimizer_that_follows_one():
    schedule = PolynomialDecay(0.1, 10, 0.0)
    optimizer = optimizers.Adam(schedule)
    optimizer.iterations = 5
    assert optimizer.learning_rate == schedule(5)
    assert optimizer.schedule is schedule
    assert optimizers.deserialize(optimizers.serialize(optimizer)) == optimizer
    assert "learning_rate=PolynomialDecay(initial" in repr(optimizer)
    with pytest.raises(TypeError, match=r"learning_rate: got 0.1; this optimizer follows Poly"):
        optimizer.learning_rate = 0.1
    assert optimizer.learning_rate == schedule(5)
    optimizer.learning_rate = CosineDecay(0.1, 10)
    assert optimizer.learning_rate == CosineDecay(0.1, 10)(5)


def model(backend, optimizer, *, dtype="float64", layers=None):
    fr.set_random_seed(7)
    layers = layers or [fr.Dense(5, "tanh"), fr.Dense(2)]
    found = fr.Sequential([fr.Input((6,), dtype=dtype), *layers], backend=backend)
    found.compile(optimizer, "mse")
    return found


X = np.random.default_rng(0).normal(size=(90, 6))
Y = np.tanh(X[:, :2]) - X[:, 2:4]


@pytest.mark.parametrize("backend", ["compiled", "reference"])
@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_a_fit_that_follows_is_one_with_the_rates_set_by_hand(backend, schedule):
    """Bit for bit, whatever the slices."""
    follows, by_hand = model(backend, fr.SGD(schedule, 0.9)), model(backend, fr.SGD(1.0, 0.9))
    follows.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    for step in range(24):
        rows = slice(8 * (step % 12), 8 * (step % 12) + 8)
        by_hand.optimizer.learning_rate = schedule(step)
        by_hand.train_on_batch(X[rows], Y[rows])
    for a, b in zip(follows.get_weights(), by_hand.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def scheduled_layers():
    warm_up = PolynomialDecay(0.0, 10, 1e-2)
    return [
        fr.Dense(5, "tanh", kernel_regularizer=fr.L1(warm_up), activity_regularizer=fr.L2(warm_up)),
        fr.Dropout(CosineDecay(0.5, 20), seed=5),
        fr.Dense(
            2,
            kernel_regularizer=fr.L1L2(CosineDecay(1e-2, 9), ExponentialDecay(0.1, 5, 0.5)),
            bias_regularizer=fr.L1L2(warm_up, warm_up),
        ),
    ]


@pytest.mark.parametrize("l1_step", ["sign", "proximal", "cumulative"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_settings_of_layers_that_follow_one(l1_step, dtype):
    """Both backends, and in the engine the same bits as one step after the other."""
    optimizer = partial_adam(l1_step)
    made = [
        model(backend, optimizer(), dtype=dtype, layers=scheduled_layers())
        for backend in ("compiled", "reference", "compiled")
    ]
    history = [
        each.fit(X, Y, 8, 3, shuffle=False, verbose=0, validation_data=(X, Y)).history
        for each in made[:2]
    ]
    close = {"float64": 1e-9, "float32": 2e-4}[dtype]
    for name, values in history[0].items():
        np.testing.assert_allclose(values, history[1][name], rtol=close)
    assert history[0]["kernel_penalty"] != history[0]["val_kernel_penalty"]
    for a, b in zip(made[0].get_weights(), made[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=close, atol=close * np.abs(b).max())
    for step in range(36):
        rows = slice(8 * (step % 12), 8 * (step % 12) + 8)
        made[2].train_on_batch(X[rows], Y[rows])
    for a, b in zip(made[0].get_weights(), made[2].get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def partial_adam(l1_step):
    return lambda: fr.Adam(
        CosineDecay(1e-3, 40, warmup_target=0.01, warmup_steps=6), l1_step=l1_step
    )


def test_evaluate_has_the_strength_of_the_next_step():
    made = model("compiled", "sgd", layers=scheduled_layers())
    kernel = made.layers[0].kernel
    for steps in (0, 3):
        made.optimizer.iterations = steps
        made.layers[0].trainable = True  # the layers are described anew
        own = made.evaluate(X, Y, verbose=0, return_dict=True)["kernel_penalty"]
        last = made.layers[2].kernel_regularizer.at(steps)(made.layers[2].kernel)
        assert own == pytest.approx(1e-3 * steps * np.abs(kernel).sum() + last, rel=1e-12)


def test_resume_and_pickle_go_on_in_the_schedule(tmp_path):
    whole = model("compiled", partial_adam("proximal")(), layers=scheduled_layers())
    first = model("compiled", partial_adam("proximal")(), layers=scheduled_layers())
    whole.fit(X, Y, 8, epochs=4, shuffle=False, verbose=0)
    first.fit(X, Y, 8, epochs=2, shuffle=False, verbose=0)
    first.save(tmp_path / "half.safetensors")
    again = fr.load_model(tmp_path / "half.safetensors")
    assert again.optimizer.schedule == first.optimizer.schedule
    again.fit(X, Y, 8, epochs=4, shuffle=False, verbose=0, resume=True)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_regularizer_set_after_build_acts_from_the_next_step():
    for backend in ("compiled", "reference"):
        made = model(backend, fr.SGD(0.1))
        made.fit(X, Y, verbose=0)
        before = made.layers[0].kernel
        made.layers[0].kernel_regularizer = fr.L2(0.5)
        plain = made.train_on_batch(X, Y, return_dict=True)
        assert plain["kernel_penalty"] == pytest.approx(0.5 * np.sum(before**2), rel=1e-12)


class Wild(LearningRateSchedule):
    """Steps 0 to 2 are fine."""

    def __call__(self, step):
        return 0.1 if step < 3 else float("nan")


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_a_value_that_the_setting_cannot_have(backend):
    made = model(backend, fr.SGD(Wild()))
    for _ in range(3):
        made.train_on_batch(X, Y)
    before = made.get_weights()
    with pytest.raises(ValueError, match=r"learning_rate: got nan; .*Wild.*steps 3 to 3"):
        made.train_on_batch(X, Y)
    for a, b in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    rate = model(backend, "sgd", layers=[fr.Dropout(PolynomialDecay(0.5, 2, 1.5)), fr.Dense(2)])
    with pytest.raises(ValueError, match=r"rate: got 1.0; .*\[0, 1\) is needed"):
        rate.fit(X, Y, 8, verbose=0)


def test_who_tunes_l1_wants_a_number():
    made = model("compiled", fr.SGD(0.1, l1_step="proximal"), layers=scheduled_layers())
    with pytest.raises(ValueError, match="l1 follows a schedule"):
        made.fit(X, Y, verbose=0, callbacks=[fr.TargetSparsity(0.5)])
