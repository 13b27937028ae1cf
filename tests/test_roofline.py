"""The roofline's arithmetic, table and picture; `make roofline` runs the measurement itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import roofline
from bench.roofline import Cell, Step

RECORD = {"machine": "a machine", "dtype": "float32", "peak": 1e11, "bandwidth": 1e10}


def cell(product: str, n_batch: int, width: int) -> Cell:
    return Cell(product, n_batch, width, width, native=8e10, blas=4e10)


def test_flops_and_traffic_of_a_product() -> None:
    assert Cell("forward", 2, 3, 5, 1, 1).flops == 2 * 2 * 3 * 5
    # kernel, x, y
    assert Cell("forward", 2, 3, 5, 1, 1).traffic(4) == 4 * (15 + 6 + 10)
    # kernel, y and dy in, dz and dx out
    assert Cell("backward", 2, 3, 5, 1, 1).traffic(8) == 8 * (15 + 3 * 10 + 6)
    # kernel, m and v in and out, the transpose out; x and dz
    assert Cell("update", 2, 3, 5, 1, 1).traffic(4) == 4 * (7 * 15 + 6 + 10)


def test_flops_of_a_step_leave_out_the_first_dx() -> None:
    # forward and dw of both layers, dx of the second: 5 products of 2 * 32 * 64 * 64
    assert Step(32, 64, 2, 1.0).flops == 5 * 2 * 32 * 64 * 64


def test_table_has_shares_of_peak_and_memory() -> None:
    lines = list(roofline.table([cell("forward", 32, 64)], RECORD))
    row = next(line for line in lines if "32x64x64" in line).split()
    bytes_a_second = 4 * (64 * 64 + 32 * 128) * 8e10 / (2 * 32 * 64 * 64)
    assert row == ["32x64x64", "80.0", "40.0", "2.00", "80%", f"{bytes_a_second / 1e10:.0%}"]


def test_a_machine_without_a_peak_still_gets_a_table() -> None:
    lines = list(roofline.table([cell("update", 32, 64)], RECORD | {"peak": 0.0}))
    assert any(line.split()[4:5] == ["-"] for line in lines)


def test_growth_says_time_and_work_of_a_row_over_the_one_above() -> None:
    steps = {"batch": [Step(16, 8, 1, 1e-5), Step(32, 8, 1, 3e-5)]}
    rows = [line.split() for line in roofline.growth_table(steps)]
    assert rows[2][0] == "32" and rows[2][-2:] == ["3.00", "2.00"]


def test_picture_is_saved(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    widths = [*roofline.WIDTHS, *roofline.ODD_WIDTHS]
    cells = [
        cell(product, n_batch, width)
        for product in roofline.PRODUCTS
        for n_batch in roofline.BATCHES
        for width in widths
    ]
    growth = {
        name: [Step(*sizes, 1e-3) for sizes in grid] for name, grid in roofline.GROWTH.items()
    }
    target = tmp_path / "roofline.png"
    roofline.plot(str(target), RECORD, cells, growth)
    assert target.read_bytes().startswith(b"\x89PNG")


def test_bad_arguments_are_named() -> None:
    with pytest.raises(SystemExit, match="--threads: got 0"):
        roofline.main(["--threads", "0"])
    with pytest.raises(SystemExit, match="--seconds must be above 0"):
        roofline.main(["--seconds", "0"])
