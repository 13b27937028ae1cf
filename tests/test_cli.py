"""`python -m fastreg`: the demo's table and picture, help, bad options, Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import fastreg
from fastreg import cli, datasets, demo

ROOT = Path(fastreg.__file__).parent.parent
RUN = [sys.executable, "-m", "fastreg"]


@pytest.fixture(scope="module")
def data():
    return datasets.load_digits()


@pytest.fixture(scope="module")
def results(data):
    """All epochs, without the reference: half a second."""
    return {result.portrait.name: result for result in demo.compare(data, reference=False)}


def test_demo_prints_a_table_and_draws_a_picture(tmp_path, capsys):
    path = tmp_path / "digits.png"
    assert cli.main(["demo", "--epochs", "2", "--units", "4", "--output", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for setting in demo.SETTINGS:
        (row,) = re.findall(rf"^{setting.name} +(.*)$", out, re.MULTILINE)
        train, test, *norms, near_zero, silent, pixels, step, ratio = row.split()
        for share in (train, test, near_zero, silent):
            assert 0 <= float(share.rstrip("%")) <= 100
        assert len(norms) == 3 and min(map(float, norms)) > 0
        assert 0 < int(pixels) <= 64 and float(step) > 0 and float(ratio) > 0
    assert "network 64-4-10, 2 epochs" in out
    assert out.rstrip().endswith(f"picture: {path}")
    magic, _, kind, width, height = struct.unpack(">8sI4sII", path.read_bytes()[:24])
    assert (magic, kind) == (b"\x89PNG\r\n\x1a\n", b"IHDR")
    assert width == 1800 and 1400 < height < 1800


def test_demo_without_reference(tmp_path, capsys):
    path = tmp_path / "digits.svg"
    assert cli.main(["demo", "--epochs", "1", "--no-reference", "--output", str(path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^kernel L1 .* -$", out, re.MULTILINE)
    assert 'backend="reference"' not in out
    assert "<svg" in path.read_text()


def test_all_settings_keep_the_accuracy(results):
    plain = results["no regularizer"]
    for result in results.values():
        assert result.train_accuracy > 0.98
        assert result.test_accuracy > plain.test_accuracy - 0.015


def test_each_regularizer_does_what_its_verdict_says(results):
    found = {name: result.portrait for name, result in results.items()}
    plain = found["no regularizer"]

    def norms(name, part):
        return np.linalg.norm(getattr(found[name], part)) / np.linalg.norm(getattr(plain, part))

    assert norms("kernel L2", "kernel") < 0.5 and found["kernel L2"].near_zero < 0.1
    assert found["kernel L1"].near_zero > 0.6
    assert found["kernel L1"].inputs_used.sum() < 55 < plain.inputs_used.sum()
    assert norms("bias L2", "bias") < 0.5 and abs(norms("bias L2", "kernel") - 1) < 0.02
    idle = np.abs(found["bias L1"].bias) < demo.NEAR_ZERO
    assert 0.4 < idle.mean() < 1 and abs(norms("bias L1", "kernel") - 1) < 0.02
    assert norms("activity L2", "output") < 0.6 and norms("activity L2", "kernel") < 0.95
    assert found["activity L1"].silent > 0.65 > found["activity L2"].silent


def test_engine_and_reference_train_the_same(data):
    few = [setting for setting in demo.SETTINGS if setting.name in ("kernel L1", "activity L2")]
    for result in demo.compare(data, few, epochs=3, units=8):
        assert result.agreement > 0.99
        assert result.reference_step_seconds > 0


def test_seed_decides(data):
    def kernel(seed):
        (result,) = demo.compare(data, demo.SETTINGS[:1], epochs=1, seed=seed, reference=False)
        return result.portrait.kernel

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert np.abs(kernel(1) - kernel(2)).max() > 0.01


def test_settings_cover_what_a_layer_can_regularize():
    found = {(s.where, type(s.regularizer).__name__) for s in demo.SETTINGS if s.regularizer}
    assert found == {(w, r) for w in ("kernel", "bias", "activity") for r in ("L1", "L2")}
    assert demo.SETTINGS[0].arguments() == {}


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert fastreg.__version__ in out and "isa:" in out and "threads:" in out


def test_no_command_prints_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("demo", "info", "import fastreg as fr", "model.fit"))


@pytest.mark.parametrize(
    "arguments, wanted", [(["--help"], "model.fit"), (["demo", "--help"], "--output PATH")]
)
def test_help_gets_one_started(arguments, wanted, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 0
    assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train"], "invalid choice: 'train'"),
        (["demo", "--epochs", "0"], "--epochs: got '0'; an integer >= 1 is needed"),
        (["demo", "--units", "many"], "--units: got 'many'; an integer >= 1 is needed"),
        (["demo", "--seed", "-1"], "--seed: got '-1'; an integer >= 0 is needed"),
        (["demo", "--threads", "1.5"], "--threads: got '1.5'; an integer >= 1 is needed"),
        (["demo", "--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_bad_output_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "compare", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(SystemExit) as end:
        cli.main(["demo", "--output", str(tmp_path / "picture.pgn")])
    assert end.value.code == 2
    assert "output: got '.pgn'" in capsys.readouterr().err
    assert cli.main(["demo", "--output", str(tmp_path / "missing" / "picture.png")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("fastreg demo: output: there is no folder")


@pytest.mark.parametrize("package", ["sklearn", "matplotlib", "tqdm"])
def test_a_missing_package_is_named_before_training(package, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["demo"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (f"fastreg demo: {package} is needed: pip install scikit-learn matplotlib tqdm\n")


def test_module_runs_and_tells_its_version():
    done = subprocess.run([*RUN, "--version"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"fastreg {fastreg.__version__}\n"


def test_ctrl_c_ends_the_demo_with_a_message(tmp_path):
    path = tmp_path / "never.png"
    process = subprocess.Popen(
        [*RUN, "demo", "--epochs", "1000000", "--output", str(path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert "handwritten digits" in process.stdout.readline()  # imports are done
        time.sleep(0.5)  # well inside the first fit, which takes minutes
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "stopped by Ctrl-C" in err and "Traceback" not in err
    assert not path.exists()
