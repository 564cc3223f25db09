"""Folders of runs with broadening models that were never trained, and records."""

import functools

import jax.numpy as jnp
import numpy as np

from jaxmodels.data.broadband import Preprocessing
from jaxmodels.models.signal_dit import SignalDiT
from jaxmodels.pipelines import broaden
from jaxmodels.train import checkpoint, model_file, packaged, state
from tests.variables import random_variables

RATE, SAMPLES = 20.0, 80
SUFFIXES = ("csv", "json", "md", "mseed", "npz", "png")
FAST = ("--steps", "2", "--samples", "2")
ABOUT = {
    "dataset": "synthetic_motions/tiny/1.0.0",
    "splits": {"train": "train", "eval": "validation"},
    "diffusion": {
        "process": "cosine",
        "parameterization": "velocity",
        "condition_dropout": 0.1,
    },
}


def preprocessing(channels=3, **fields):
    return Preprocessing(
        sampling_rate=RATE,
        num_samples=SAMPLES,
        channels=channels,
        corner=1.0,
        **fields,
    )


@functools.cache
def network(channels=3, **fields):
    """A small `SignalDiT` with random variables."""
    model = SignalDiT(
        num_samples=SAMPLES,
        channels=channels,
        patch_size=8,
        embed_dim=8,
        num_heads=2,
        mlp_dim=8,
        encoder_layers=1,
        decoder_layers=1,
        attention="full",
        **fields,
    )
    waveform = jnp.zeros((1, SAMPLES, channels))
    scalars = jnp.zeros((1, model.num_scalars))
    arguments = waveform, jnp.zeros(1), waveform, scalars
    return model, random_variables(model, *arguments)


def write(path, channels=3, about=ABOUT, described=None, **fields):
    """Writes the run of a broadening model, and returns its folder."""
    model, variables = network(channels, **fields)
    described = preprocessing(channels).to_json() if described is None else described
    model_file.write(path, {"model": model}, described | about)
    run = state.start({"model": variables["params"]}, {}, {}, {"model": {}})
    saver = checkpoint.Checkpoints(
        path / "checkpoints", preprocessing=described | about
    )
    saver.save(run, wait=True)
    saver.close()
    return path


def ground_motion(seconds=6.0, rate=RATE, channels=3, seed=0):
    """Noise under an envelope, m/s^2, float64 [T, C]."""
    count = round(seconds * rate)
    time = np.arange(count) / rate
    envelope = np.exp(-0.5 * ((time - seconds / 3) / (seconds / 6)) ** 2)
    noise = np.random.default_rng(seed).standard_normal((count, channels))
    return noise * envelope[:, None]


def write_npz(path, waveform=None, rate=RATE, **entries):
    waveform = ground_motion() if waveform is None else waveform
    np.savez(path, waveform=waveform, sampling_rate=rate, **entries)
    return path


def package(path, channels=3, **changes):
    """Writes a packaged model, and returns its folder."""
    model, variables = network(channels)
    described = preprocessing(channels).to_json() | ABOUT | changes
    packaged.write(path, {"model": model}, {"model": variables}, described, "card")
    return path


def command(capsys, *arguments):
    """The exit code and the lines of standard output and error of the pipeline."""
    code = broaden.main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()
