"""Settings of the process: float type, threads, backend, seed."""

from __future__ import annotations

import os

import numpy as np
import pytest
import threadpoolctl

import fastreg as fr
from fastreg import config


@pytest.fixture(autouse=True)
def as_it_was():
    yield
    config.set_floatx("float32")
    config.set_num_threads(None)


def test_floatx_is_the_dtype_of_networks_that_name_none():
    assert config.floatx() == "float32"
    config.set_floatx("float64")
    assert fr.Sequential([fr.Input((2,)), fr.Dense(1)]).get_weights()[0].dtype == np.float64
    named = fr.Sequential([fr.Input((2,), dtype="float32"), fr.Dense(1)])
    assert named.get_weights()[0].dtype == np.float32


def test_floatx_refuses_other_types():
    with pytest.raises(ValueError, match=r"value: got 'float16'; allowed: float32, float64"):
        config.set_floatx("float16")
    assert config.floatx() == "float32"


def test_num_threads_set_and_reset(monkeypatch):
    monkeypatch.delenv("FASTREG_NUM_THREADS", raising=False)
    config.set_num_threads(3)
    assert config.get_num_threads() == 3
    config.set_num_threads(None)
    assert config.get_num_threads() == len(os.sched_getaffinity(0))


def test_num_threads_of_the_environment(monkeypatch):
    monkeypatch.setenv("FASTREG_NUM_THREADS", "5")
    config.set_num_threads(None)
    assert config.get_num_threads() == 5


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_num_threads_of_a_bad_environment(monkeypatch, text):
    monkeypatch.setenv("FASTREG_NUM_THREADS", text)
    config.set_num_threads(None)
    with pytest.raises(ValueError, match="FASTREG_NUM_THREADS: got"):
        config.get_num_threads()


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (2.0, TypeError), (True, TypeError)])
def test_num_threads_refuses(value, error):
    with pytest.raises(error, match="n_threads"):
        config.set_num_threads(value)


def test_backend_of_the_environment(monkeypatch):
    monkeypatch.delenv("FASTREG_BACKEND", raising=False)
    assert fr.Sequential().backend == "compiled"
    monkeypatch.setenv("FASTREG_BACKEND", "reference")
    assert fr.Sequential().backend == "reference"
    assert fr.Sequential(backend="compiled").backend == "compiled"
    monkeypatch.setenv("FASTREG_BACKEND", "referense")
    with pytest.raises(ValueError, match=r"FASTREG_BACKEND: got 'referense'.*'reference'"):
        fr.Sequential()


def test_random_seed_seeds_fresh_weights():
    def kernel():
        return fr.Sequential([fr.Input((3,)), fr.Dense(4)]).get_weights()[0]

    fr.set_random_seed(11)
    first, second = kernel(), kernel()
    fr.set_random_seed(11)
    assert np.array_equal(kernel(), first)
    assert np.array_equal(kernel(), second)
    assert not np.array_equal(first, second)


def test_random_seed_leaves_numpy_alone():
    np.random.seed(0)  # noqa: NPY002  # the legacy state is what must not move
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    fr.set_random_seed(5)
    assert np.random.random() == expected  # noqa: NPY002


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**64, ValueError), ("a", TypeError)]
)
def test_random_seed_refuses(seed, error):
    with pytest.raises(error, match="seed"):
        fr.set_random_seed(seed)


def test_show_config_prints_what_it_returns(capsys):
    found = fr.show_config("dicts")
    assert found["fastreg"] == fr.__version__
    assert found["isa"] in found["isas_built"]
    assert found["blas"]
    assert fr.show_config() is None
    printed = capsys.readouterr().out
    for value in (fr.__version__, found["isa"], found["blas"][0]):
        assert value in printed
    with pytest.raises(ValueError, match="mode: got 'json'"):
        fr.show_config("json")


def test_omp_num_threads_is_heeded_after_our_own(monkeypatch):
    fr.set_num_threads(None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    monkeypatch.delenv("FASTREG_NUM_THREADS", raising=False)
    assert fr.get_num_threads() == 3
    fr.set_num_threads(None)
    monkeypatch.setenv("FASTREG_NUM_THREADS", "5")
    assert fr.get_num_threads() == 5
    fr.set_num_threads(None)
    monkeypatch.delenv("FASTREG_NUM_THREADS")
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert fr.get_num_threads() == len(os.sched_getaffinity(0))
    fr.set_num_threads(None)


def test_threadpool_limits_governs_the_engine():
    fr.set_num_threads(4)
    try:
        (info,) = [d for d in threadpoolctl.threadpool_info() if d["user_api"] == "fastreg"]
        assert info["num_threads"] == 4 and info["version"] == fr.__version__
        with threadpoolctl.threadpool_limits(1):
            assert fr.get_num_threads() == 1
        with threadpoolctl.threadpool_limits({"fastreg": 2}):
            assert fr.get_num_threads() == 2
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            assert fr.get_num_threads() == 4
        assert fr.get_num_threads() == 4
    finally:
        fr.set_num_threads(None)


def test_one_blas_thread_until_the_last_one_leaves():
    """Contexts may end in any order, in several threads."""

    def threads():
        return {
            lib["num_threads"]
            for lib in threadpoolctl.threadpool_info()
            if lib["user_api"] == "blas"
        }

    with threadpoolctl.threadpool_limits(2, "blas"):
        before = threads()
        first, second = config.one_blas_thread(), config.one_blas_thread()
        first.__enter__()
        second.__enter__()
        assert threads() == {1}
        first.__exit__(None, None, None)
        assert threads() == {1}
        second.__exit__(None, None, None)
        assert threads() == before
        with pytest.raises(KeyError), config.one_blas_thread():
            raise KeyError
        assert threads() == before
