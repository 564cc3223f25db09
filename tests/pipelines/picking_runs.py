"""Pickers whose picks are known, seismograms of known arrivals, and folders of runs."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np

from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.models.masked_reconstruction import BidirAutoregEncoder
from jaxmodels.models.mlstm_backbones import SequentialMLSTM
from jaxmodels.models.phase_picker import PhasePicker
from jaxmodels.models.streaming_picker import StreamingPicker
from jaxmodels.pipelines import pick
from jaxmodels.pipelines.pick_model import Picker
from jaxmodels.train import checkpoint, model_file, packaged, state
from tests.variables import random_variables

RATE, SAMPLES = 100.0, 1024
START = 1_251_072_003_000_000_000  # 2009-08-24T00:00:03, nanoseconds since 1970
P, S = 0, 1


@dataclasses.dataclass(frozen=True)
class SpikeDetector:
    """P where the vertical stands out, S where the first horizontal does.

    Windows come normalized: a spike is many deviations high, noise is not.
    """

    channels: int = 3
    num_classes: int = 3
    height: float = 6.0

    def apply(self, variables, waveform):
        del variables
        logits = 2.0 * (jnp.abs(waveform[..., :2]) - self.height)
        return jnp.pad(logits, ((0, 0), (0, 0), (0, 1)))


def picker(model=None, num_samples=SAMPLES, about=None, **fields):
    """A `Picker` without weights."""
    model = SpikeDetector() if model is None else model
    own = WindowPreprocessing(RATE, num_samples, model.channels, **fields)
    return Picker(model, {"params": {"x": np.zeros(1)}}, own, about or {}, "a test")


def window_model():
    """A small `PhasePicker`."""
    return PhasePicker(
        encoder=BidirAutoregEncoder(8),
        backbone=SequentialMLSTM(8, 1, bidirectional="none", num_heads=2),
        head_channels=(4,),
    )


def streaming_model():
    """A small `StreamingPicker`."""
    return StreamingPicker(embed_dim=8, num_layers=1, num_heads=2, head_channels=4)


@functools.cache
def variables_of(model):
    return random_variables(model, jnp.zeros((1, 64, model.channels)))


def trained(model, **fields):
    """A `Picker` with random weights."""
    own = WindowPreprocessing(RATE, SAMPLES, **fields)
    return Picker(model, variables_of(model), own, {}, "a test")


def described(**changes):
    own = WindowPreprocessing(RATE, SAMPLES).to_json()
    return own | {"dataset": "synthetic", "splits": {"train": "train"}} | changes


def package(path, model=None, **changes):
    """Writes a packaged picker, and returns its folder."""
    model = window_model() if model is None else model
    variables = {"model": variables_of(model)}
    packaged.write(path, {"model": model}, variables, described(**changes), "card")
    return path


def write(path, model=None, **changes):
    """Writes the run of a picker, and returns its folder."""
    model = window_model() if model is None else model
    model_file.write(path, {"model": model}, described(**changes))
    run = state.start({"model": variables_of(model)["params"]}, {}, {}, {"model": {}})
    saver = checkpoint.Checkpoints(
        path / "checkpoints", preprocessing=described(**changes)
    )
    saver.save(run, wait=True)
    saver.close()
    return path


def seismogram(seconds, arrivals, rate=RATE, seed=0, noise=0.01):
    """Noise [T, 3] with a pulse at each of (phase, seconds).

    A pulse is 0.04 s wide, so that it lives at 20 to 500 Hz, and highest at its time.
    """
    count = round(seconds * rate)
    time = np.arange(count) / rate
    waveform = noise * np.random.default_rng(seed).standard_normal((count, 3))
    for phase, at in arrivals:
        waveform[:, phase] += np.exp(-0.5 * ((time - at) / 0.04) ** 2)
    return waveform


def stream(waveform, rate=RATE, channels=("HHZ", "HHN", "HHE"), start=START, **codes):
    """An ObsPy stream of the columns that have a channel."""
    import obspy

    codes = {"network": "XX", "station": "ABC", "location": ""} | codes
    found = obspy.Stream()
    for column, channel in zip(waveform.T, channels, strict=False):
        if channel is not None:
            header = codes | {"channel": channel, "sampling_rate": rate}
            header["starttime"] = obspy.UTCDateTime(ns=start)
            found.append(obspy.Trace(np.array(column, np.float32), header))
    return found


def times(picks, phase=None, start=START):
    """Seconds of picks after a start."""
    return [
        (one.peak_time.ns - start) / 1e9 for one in picks if phase in (None, one.phase)
    ]


def command(capsys, *arguments):
    """The exit code and the lines of standard output and error of the pipeline."""
    code = pick.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()
