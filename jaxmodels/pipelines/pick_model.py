"""A trained picker: seismograms in, probabilities and picks of P and S out.

    from jaxmodels.pipelines import pick

    picker = pick.load()
    picks = picker.classify(obspy.read()).picks

Shapes use T samples of a record, W windows, N samples of a window, C components;
probabilities are P, S, noise.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jaxmodels.data import described
from jaxmodels.data.seismic_records import in_threads
from jaxmodels.data.waveform_windows import WindowPreprocessing
from jaxmodels.models.phase_picker import PhasePicker
from jaxmodels.models.streaming_picker import StreamingPicker
from jaxmodels.pipelines import (
    pick_segments,
    pick_settings,
    pick_stream,
    pick_windows,
    trained,
)
from jaxmodels.train import packaged
from jaxmodels.train.errors import ConfigError

PACKAGED = pathlib.Path(__file__).parents[1] / "pretrained" / "picker"
CONFIG = "configs/seismic/phase_picking.py"
MODELS = (PhasePicker, StreamingPicker)
# Windows that a CPU computes at once: what more of them make falls out of its caches.
CPU_BATCH = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Picker:
    """A model and all that its input takes; `load` makes one.

    Attributes:
        model: `PhasePicker` or `StreamingPicker`.
        variables: what `model.apply` takes.
        preprocessing: how windows become what the model sees.
        about: the rest of the preprocessing in `model.json`: "dataset", "splits", and
            in a packaged model "trained_on" and "picking", defaults of keywords.
        source: the folder that it was read from.
    """

    model: Any
    variables: Any
    preprocessing: WindowPreprocessing
    about: dict[str, Any]
    source: str

    @functools.cached_property
    def digest(self):
        """SHA-256 of the weights, hexadecimal."""
        return packaged.weights_digest(self.variables)

    @property
    def label(self):
        """What channels of probabilities begin with, the name of the model."""
        return type(self.model).__name__

    @property
    def creator(self):
        """The model and the start of its digest."""
        return f"jaxmodels.{self.label}.{self.digest[:12]}"

    @property
    def looks_back_only(self):
        """Whether the model can be fed while a record arrives; see `pick_live`."""
        return looks_back_only(self.model)

    @property
    def trained_on(self):
        """What the model was trained on, in a few words."""
        return trained.trained_on(self.about)

    def describe(self):
        """One line about the model and its training."""
        own = self.preprocessing
        count = sum(x.size for x in jax.tree.leaves(self.variables))
        return (
            f"model {self.source} ({count:,} parameters, {self.digest[:12]}) was "
            f"trained on {self.trained_on}: {own.channels} component(s), windows of "
            f"{own.seconds:g} s at {own.sampling_rate:g} Hz, each component divided by "
            f"its {own.normalization}"
        )

    def defaults(self):
        """The keywords of `annotate` and `classify` with their defaults."""
        return pick_settings.defaults(
            self.preprocessing.num_samples,
            self.looks_back_only,
            self.about.get("picking"),
        )

    def settings(self, **keywords):
        """Keywords of `annotate` and `classify`, checked and filled in.

        Raises:
            ConfigError: one is unknown or out of its range.
        """
        return pick_settings.make_settings(
            self.defaults(), self.preprocessing.num_samples, keywords
        )

    def predict(self, inputs):
        """Probabilities of normalized windows.

        Args:
            inputs: float32 [W, N, C].

        Returns:
            float32 [W, N, 3].

        Raises:
            ConfigError: the model gives something that is not finite.
        """
        most = CPU_BATCH if jax.default_backend() == "cpu" else None
        sizes = pick_windows.batches(len(inputs), most)
        parts = np.split(inputs, np.cumsum(sizes[:-1]))

        def probabilities(part):
            return np.asarray(_probabilities(self.model, self.variables, part))

        # Much of a batch runs on one core of a CPU, and the next batch on another.
        values = np.concatenate(list(in_threads(probabilities, parts)))
        if not np.isfinite(values).all():
            raise ConfigError(
                f"the model in {self.source} gives probabilities that are not finite; "
                "give another --checkpoint"
            )
        return values

    def annotate(self, stream, **keywords):
        """Probabilities of an ObsPy stream.

        Args:
            stream: traces of any stations, rates and lengths; it stays as it is.
            keywords: `overlap` of windows, a share or samples; `blinding`, samples left
                out at the ends of windows; `stacking`, "avg" or "max"; `batch_size`;
                `strict`, True to leave out what lacks a component. `P_threshold` and
                `S_threshold` are of `classify`.

        Returns:
            A stream of three traces for each part of an instrument without long gaps,
            channels "PhasePicker_P", "_S" and "_N", at the model's rate.
            `stats.instrument` tells instruments at one location apart.

        Raises:
            ConfigError: an unknown keyword, or no trace can be picked.
        """
        return pick_stream.annotate(self, stream, **keywords)

    def classify(self, stream, **keywords):
        """Picks and detections of an ObsPy stream.

        Args:
            stream, keywords: as for `annotate`, and `P_threshold`, `S_threshold`.

        Returns:
            `pick_results.Classification`.

        Raises:
            ConfigError: as for `annotate`.
        """
        return pick_stream.classify(self, stream, **keywords)

    def annotate_array(self, waveform, sampling_rate, **keywords):
        """Probabilities of an array.

        Args:
            waveform: [T, 1 to 3], vertical, north, east; NaN where nothing was
                recorded, a component that is left out counts as not recorded.
            sampling_rate: Hz.
            keywords: as for `annotate`.

        Returns:
            float32 [T', 3] at the model's rate; sample i is i / rate after the first
            of the waveform. Where nothing was recorded all is noise.

        Raises:
            ConfigError: an unknown keyword, or nothing can be picked.
        """
        settings = self.settings(**keywords)
        waveform = np.asarray(waveform)
        shaped = waveform.ndim == 2 and 1 <= waveform.shape[1] <= 3
        if not shaped or not len(waveform) or waveform.dtype.kind not in "iuf":
            raise ConfigError(
                f"a record of shape {waveform.shape} and type {waveform.dtype} is not "
                "[samples, 1 to 3] of numbers, vertical, north, east"
            )
        is_number = isinstance(sampling_rate, (int, float, np.number))
        if not is_number or not 0 < sampling_rate < math.inf:
            raise ConfigError(f"sampling_rate {sampling_rate} must be above 0")
        pieces = []
        for component, column in enumerate(waveform.T):
            pieces += pick_segments.pieces_of(
                component, "ZNE"[component], 0, float(sampling_rate), column
            )[0]
        if not pieces:
            raise ConfigError("no sample of the record is finite; give another")
        there = {piece.component for piece in pieces}
        codes = tuple("ZNE"[c] if c in there else None for c in range(3))
        instrument = pick_stream.Instrument("", "", "", "", tuple(pieces), codes)
        grid = pick_segments.Grid.of(self.preprocessing.sampling_rate)
        whole = pick_segments.Piece(0, "Z", 0, float(sampling_rate), waveform[:, 0])
        found = np.tile(np.array([0, 0, 1], np.float32), (grid.covered(whole)[1], 1))
        for segment in pick_stream.segments(self, instrument, settings, _say_nothing):
            for part in pick_stream.parts(self, segment, settings=settings):
                values = part.probabilities
                found[part.first : part.first + len(values)] = values
        return found


def _say_nothing(line):
    """What is not as it should be in an array, its owner knows."""


@functools.partial(jax.jit, static_argnames="model")
def _probabilities(model, variables, inputs):
    logits = model.apply(variables, inputs)
    return jax.nn.softmax(logits.astype("float32"), axis=-1)


def load(checkpoint_folder=None):
    """The picker of a run, or a packaged one.

    Args:
        checkpoint_folder: folder of a run of phase picking, with `model.json` and
            `checkpoints/`, or one that `pick_package` wrote; None for the one of this
            package.

    Returns:
        `Picker`, with averaged weights where the run keeps them. On CPUs it computes in
        float32 whatever it was trained in: that is more exact there, and faster.

    Raises:
        ConfigError: no such model, or one of other preprocessing.
        StorageError: no checkpoint can be restored.
    """
    model, variables, entry, source = trained.read(
        checkpoint_folder,
        PACKAGED,
        find_network,
        name="picker",
        noun="picker",
        config=CONFIG,
    )
    preprocessing = WindowPreprocessing.from_json(entry)
    _check_fit(source, model, preprocessing)
    if jax.default_backend() == "cpu":
        model = in_float32(model)
    about = described.entries_beside(preprocessing, entry)
    return Picker(model, variables, preprocessing, about, source)


def find_network(folder, networks):
    """The name of the one picker among the networks of a run.

    Raises:
        ConfigError: there is none, or more than one.
    """
    return trained.find_network(folder, networks, MODELS, noun="pickers", config=CONFIG)


def in_float32(model):
    """A model whose modules all compute in float32."""
    changes = {}
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name == "dtype":
            changes["dtype"] = "float32"
        elif field.name != "parent" and isinstance(value, nn.Module):
            changes[field.name] = in_float32(value)
    return model.clone(**changes)


def looks_back_only(model):
    """Whether a later sample changes no earlier output of a model."""
    return isinstance(model, StreamingPicker)


def _check_fit(folder, model, preprocessing):
    if model.channels != preprocessing.channels:
        raise ConfigError(
            f"{folder}: the model has {model.channels} components and its "
            f"preprocessing {preprocessing.channels}; copy model.json and weights from "
            "the same run"
        )
    if model.num_classes != pick_windows.CLASSES:
        raise ConfigError(
            f"{folder}: the model tells {model.num_classes} classes apart, and a "
            "picker three: P, S and noise"
        )
