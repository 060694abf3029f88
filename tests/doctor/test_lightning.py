"""The doctor and Lightning: an unchanged script, and the callback."""

import logging
import warnings

import pytest
import torch
from torch import nn

lightning = pytest.importorskip("lightning.pytorch")

from blackbelt import doctor  # noqa: E402
from blackbelt.doctor.lightning import DoctorCallback  # noqa: E402


class Regression(lightning.LightningModule):
    def __init__(self, *, broadcasts=False, fails=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        self.broadcasts, self.fails = broadcasts, fails

    def training_step(self, batch, batch_index):
        x, y = batch
        if self.fails and batch_index == 2:
            raise RuntimeError("the third batch is bad")
        prediction = self.body(x)
        if self.broadcasts:
            return ((prediction - y) ** 2).mean()
        return ((prediction.squeeze(1) - y) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)


def fit(module, *callbacks):
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(96, 8), torch.randn(96))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", callbacks=list(callbacks), **quiet)
        trainer.fit(module, torch.utils.data.DataLoader(data, 32, shuffle=True))
    return module


def test_the_callback_finds_a_broadcast_and_prints_it(capsys):
    callback = DoctorCallback()
    fit(Regression(broadcasts=True), callback)
    (finding,) = callback.report.findings
    assert finding.code == "BB301" and "return ((prediction - y) ** 2).mean()" in finding.place.code
    assert "BB301" in capsys.readouterr().out
    assert callback.report.num_steps == 6


def test_a_right_training_is_healthy_silent_and_the_same(capsys):
    callback = DoctorCallback()
    observed, alone = fit(Regression(), callback), fit(Regression())
    doctor.assert_healthy(callback.report)
    assert "BB" not in capsys.readouterr().out
    pairs = zip(observed.state_dict().values(), alone.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_fit_that_fails_still_tells(capsys):
    callback = DoctorCallback()
    with pytest.raises(RuntimeError, match="third batch"):
        fit(Regression(broadcasts=True, fails=True), callback)
    assert "BB301" in capsys.readouterr().out
    with doctor.watch() as observation:  # and the taps are out again
        pass
    assert observation.report.num_steps == 0
