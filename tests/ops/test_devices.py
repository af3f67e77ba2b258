"""Names of devices, and what is said where there is no GPU."""

import numpy as np
import pytest
from typer.testing import CliRunner

import wavedil as wd
from wavedil import cli
from wavedil.errors import ConfigError
from wavedil.kernels.cuda.engine import HostEngine, stage, unavailable
from wavedil.kernels.workspace import Workspace

CONFIG = wd.WaveNetConfig(dilations=(1, 2), residual_channels=2, dilation_channels=2, skip_channels=2, end_channels=2)
MODELS = {
    "WaveNet": lambda **options: wd.WaveNet(CONFIG, **options),
    "ClipClassifier": lambda **options: wd.ClipClassifier(CONFIG, ("a", "b"), **options),
}
no_gpu = pytest.mark.skipif(unavailable() is None, reason="there is a GPU")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:x", "cuda:-1", "cuda:", "", 0, None])
def test_names(name, model):
    if (name, model) == (None, "ClipClassifier"):
        assert MODELS[model](device=name).device == "cpu", "there None means where the trunk is"
        return
    with pytest.raises(ConfigError, match="device must be 'cpu', 'cuda', 'cuda:N' or 'auto', got"):
        MODELS[model](device=name)


@no_gpu
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_without_a_gpu_the_error_is_one_line_with_reason_and_remedy(name, model):
    with pytest.raises(ConfigError) as caught:
        MODELS[model](device=name)
    text = str(caught.value)
    assert text.startswith("device 'cuda:") and "install" in text and "\n" not in text


@no_gpu
@pytest.mark.parametrize("name", MODELS)
def test_auto_falls_back_and_says_so(name):
    with pytest.warns(UserWarning, match="device='auto': going on with the CPU, because .*install"):
        model = MODELS[name](device="auto")
    assert model.device == "cpu" and isinstance(model.params.flat, np.ndarray)


@no_gpu
def test_command_line(tmp_path):
    run = tmp_path / "run"
    options = ["--preset", "tiny", "--steps", "1", "--out", str(run)]
    bad = CliRunner().invoke(cli.app, ["train", *options, "--device", "cuda"])
    assert bad.exit_code == 1 and "device 'cuda:0':" in bad.output and not run.exists()
    wrong = CliRunner().invoke(cli.app, ["generate", str(run), "--device", "gpu"])
    assert wrong.exit_code == 1


def test_the_drivers_reason_is_given(monkeypatch):
    from numba import cuda

    monkeypatch.setattr(cuda, "implementation", "NVIDIA", raising=False)
    monkeypatch.setattr(cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "cuda_error", lambda: "\nthe library\ncannot be found\n")
    reason = unavailable()
    assert "the library cannot be found" in reason and "install a driver" in reason and "\n" not in reason


class Lagging(HostEngine):
    """Does what it was asked for only when somebody waits, as a GPU may."""

    def __init__(self):
        super().__init__()
        self.asked, self.read = [], []

    def upload(self, flat, host):
        self.asked.append(lambda: flat.__setitem__(slice(None), host))

    def use(self, array):
        self.asked.append(lambda: self.read.append(array.flat.copy()))

    def mark(self):
        count = len(self.asked)

        def wait():
            while self.done < count:
                self.asked[self.done]()
                self.done += 1

        return wait

    done = 0


def test_a_staging_buffer_is_not_filled_again_before_its_upload_has_ended():
    engine, workspace = Lagging(), Workspace()
    for value in range(5):
        engine.use(stage(workspace, engine, "x", np.full(3, float(value))))
    engine.mark()()
    assert [list(part) for part in engine.read] == [[value] * 3 for value in range(5)]
