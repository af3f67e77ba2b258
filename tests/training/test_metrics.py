"""metrics.jsonl: what is read back after kills and resumes, and the unit of losses."""

import numpy as np
import pytest
from helpers.trainers import trainer

import wavedil as wd
from wavedil.errors import CheckpointError
from wavedil.training import Trainer, read_metrics


def test_rows_come_back_in_order_without_damaged_lines(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 7}\nnonsense\n{"step": 1, "loss": 8}\n{"step": 2, "loss": 6}\n{"step": 3')
    assert read_metrics(path) == [{"step": 1, "loss": 8}, {"step": 2, "loss": 6}]
    path.write_text("")
    assert read_metrics(path) == []
    with pytest.raises(CheckpointError, match="none: cannot be read: No such file"):
        read_metrics(tmp_path / "none")


def test_rows_are_what_on_step_was_told(tmp_path):
    seen = []
    trainer(tmp_path).fit(steps=3, on_step=seen.append)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert len(rows) == 3
    for row, progress in zip(rows, seen, strict=True):
        assert row == {name: getattr(progress, name) for name in row}
        assert row["unit"] == "bits" and row["validation"] is None


@pytest.mark.parametrize(
    ("loss", "unit"), [("mse", "mse"), ("huber", "huber"), ("cross_entropy", "bits"), ("binary", "bits")]
)
def test_a_loss_carries_its_unit(loss, unit, tmp_path):
    x = np.random.default_rng(0).standard_normal((1, 60, 1)).astype(np.float32)
    targets = (x[..., 0] > 0).astype(int) if loss == "cross_entropy" else (x > 0).astype(np.float32)
    outputs = {"outputs": 2} if loss == "cross_entropy" else {}
    model = wd.TCN(wd.TCNConfig(dilations=[1, 2], channels=4, loss=loss, **outputs), threads=1)
    data = wd.training.Arrays(x, targets)
    t = Trainer(model, data, validation=data, batch=2, window=20, folder=tmp_path)
    expected = float(model.loss(x, targets)) / (np.log(2) if unit == "bits" else 1)
    assert t.unit == unit and t.validate() == pytest.approx(expected)
    seen = []
    t.fit(steps=1, on_step=seen.append)
    assert seen[0].unit == unit == read_metrics(tmp_path / "metrics.jsonl")[0]["unit"]
