"""A trained broadening model: low-passed ground motion in, broadband samples out.

Shapes use T samples of a record, N samples of a window, C components, W windows of a
record, M samples (draws), S scalars.
"""

import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any

import jax
import numpy as np
import tqdm

from jaxmodels.data import described
from jaxmodels.data.broadband import Preprocessing
from jaxmodels.diffusion import process as processes
from jaxmodels.diffusion import samplers
from jaxmodels.models.signal_dit import SignalDiT
from jaxmodels.pipelines import broaden_windows as windows
from jaxmodels.pipelines import trained
from jaxmodels.pipelines.broaden_units import STRONGEST
from jaxmodels.signal import filters
from jaxmodels.train import packaged
from jaxmodels.train.errors import ConfigError

PACKAGED = pathlib.Path(__file__).parents[1] / "pretrained" / "broaden"
CONFIG = "configs/seismic/signal_dit.py"
USUAL_CORNER = 1.0  # Hz
NUM_STEPS = 25
MERGES = 8  # iterations of the complementary merge, in every run
# A window may be so much quieter than the loudest one of its record: log10 of the
# amplitude of anything below would be far from what was trained.
QUIETEST = 1e-5


@dataclasses.dataclass(frozen=True, eq=False)
class Broadener:
    """A model and all that its input takes; `load` makes one.

    Attributes:
        model: `SignalDiT`.
        variables: what `model.apply` takes.
        preprocessing: how records become what the model sees.
        process: the diffusion process that it was trained on.
        about: the rest of the preprocessing in `model.json`: "dataset", "splits",
            "diffusion", and in a packaged model "trained_on" and "sampling".
        source: the folder that it was read from.
    """

    model: SignalDiT
    variables: Any
    preprocessing: Preprocessing
    process: processes.Process
    about: dict[str, Any]
    source: str

    @functools.cached_property
    def digest(self):
        """SHA-256 of the weights, hexadecimal."""
        return packaged.weights_digest(self.variables)

    @property
    def trained_on(self):
        """What the model was trained on, in a few words."""
        return trained.trained_on(self.about)

    def describe(self):
        """One line about the model and its training."""
        own = self.preprocessing
        count = sum(x.size for x in jax.tree.leaves(self.variables))
        corner = " to ".join(f"{x:g}" for x in sorted(set(own.corners)))
        return (
            f"model {self.source} ({count:,} parameters, {self.digest[:12]}) was "
            f"trained on {self.trained_on}: {own.channels} component(s), windows of "
            f"{own.seconds:g} s at {own.sampling_rate:g} Hz, corner {corner} Hz"
        )

    def corner(self, corner=None):
        """A corner in Hz that the model knows: the given one, or the usual one.

        Raises:
            ConfigError: the model was trained on other corners.
        """
        low, high = self.preprocessing.corners
        if corner is None:
            return min(max(USUAL_CORNER, low), high)
        if not low * (1 - 1e-6) <= corner <= high * (1 + 1e-6):
            known = f"{low:g} Hz" if low == high else f"{low:g} to {high:g} Hz"
            raise ConfigError(
                f"corner {corner:g} Hz: the model in {self.source} was trained on "
                f"{known}; give such a --corner or another --checkpoint"
            )
        return float(corner)

    def sampling(self, num_steps=None, sampler=None, guidance=None):
        """How to sample: (sampler, num_steps, guidance), defaults filled in.

        Raises:
            ConfigError: see `check_sampling`.
        """
        usual = {"sampler": None, "num_steps": NUM_STEPS, "guidance": 1.0}
        given = dict(num_steps=num_steps, sampler=sampler, guidance=guidance)
        given = {name: x for name, x in given.items() if x is not None}
        chosen = usual | self.about.get("sampling", {}) | given
        if chosen["sampler"] is None:
            kind = self.about["diffusion"]["process"]
            chosen["sampler"] = "heun" if kind == "edm" else "ddim"
        check_sampling(self.about, **chosen)
        return chosen["sampler"], chosen["num_steps"], chosen["guidance"]

    def sample(
        self,
        low_passed,
        *,
        seed=0,
        num_samples=8,
        num_steps=None,
        sampler=None,
        guidance=None,
        corner=None,
        progress=False,
    ):
        """Draws broadband records that have the given one as their low-pass.

        A record longer than the window is cut into overlapping windows that are
        denoised together; see `broaden_windows`. Each window has an amplitude of its
        own, and one draw a sample says where all of them lie in their distributions.
        Sample m depends on the record, `seed` and m alone, not on how many are drawn:
        two records draw noise of their own from one seed.

        Args:
            low_passed: [T, C], m/s^2, at the model's rate, prepared and low-passed as
                `preprocessing` does it. With a model of one component C may be
                anything: each component is taken alone.
            seed: of all draws.
            num_samples: M.
            num_steps, sampler, guidance: None for those of the model.
            corner: Hz, of the low-pass; None for `corner()`.
            progress: shows a bar on standard error, where that is a terminal.

        Returns:
            float32 [M, T, C], m/s^2.

        Raises:
            ConfigError: the record does not suit the model, or a setting is out of
                its range.
        """
        corner = self.corner(corner)
        name, num_steps, guidance = self.sampling(num_steps, sampler, guidance)
        if num_samples < 1:
            raise ConfigError(f"samples {num_samples} must be at least 1")
        low_passed = self._checked(low_passed)
        plan = windows.Plan(
            self.model,
            self.process,
            windows.joint_sampler(self.process, name, num_steps),
            float(guidance),
        )
        root = root_key(seed, low_passed)
        alone = self.preprocessing.channels == 1
        parts = np.split(low_passed, low_passed.shape[1], 1) if alone else [low_passed]
        with tqdm.tqdm(
            total=num_steps * len(parts),
            desc="sampling",
            disable=None if progress else True,
            leave=False,
        ) as bar:
            found = [
                self._draw(plan, part, corner, root, place, num_samples, bar)
                for place, part in enumerate(parts)
            ]
        estimate = np.concatenate(found, axis=-1)
        own = self.preprocessing
        merged = filters.complementary_merge(
            estimate,
            low_passed,
            own.sampling_rate,
            corner,
            iterations=MERGES,
            order=own.order,
            causal=own.causal,
        )
        if not np.isfinite(merged).all():
            raise ConfigError(
                f"the samples of the model in {self.source} are not finite; give "
                "another --checkpoint"
            )
        peak = np.abs(merged).max()
        if own.units == "m/s^2" and peak > STRONGEST:
            raise ConfigError(
                f"a sample of the model in {self.source} reaches {peak:.3g} m/s^2, "
                f"above {STRONGEST:g}; give another --checkpoint or --seed, and a "
                "record in m/s^2"
            )
        return np.asarray(merged, np.float32)

    def _draw(self, plan, low_passed, corner, root, place, num_samples, bar):
        """float64 [M, T, C] before the merge, of what fits the model's components."""
        own = self.preprocessing
        starts = windows.starts(len(low_passed), own.num_samples)
        cut = np.stack([low_passed[i : i + own.num_samples] for i in starts])
        size = own.size(cut)
        size = np.maximum(size, QUIETEST * size.max())
        condition = (cut / size[:, None, None]).astype(np.float32)
        told = np.log10(size) if own.amplitude else np.full(len(size), math.nan)
        scalars = np.stack([told, np.full(len(size), math.log2(corner))], axis=1)
        inputs = windows.read(
            plan, self.variables, condition, scalars.astype(np.float32), starts
        )
        rngs = [jax.random.fold_in(root, m) for m in range(num_samples)]
        ratio = self._ratio(inputs.context.amplitude, rngs, len(starts))  # M W
        noise = jax.numpy.stack([jax.random.fold_in(rng, 1 + place) for rng in rngs])
        sampled, scale = windows.denoise(
            plan, inputs, noise, size * 10.0**ratio, len(low_passed), bar
        )
        estimate = sampled * scale[..., None]
        return estimate + low_passed if own.target == "residual" else estimate

    def _ratio(self, amplitude, rngs, num_windows):
        """log10 of what windows are multiplied by beside their own size, [M, W]."""
        if amplitude is None:  # targets were divided by the size of the condition
            return np.zeros((len(rngs), num_windows))
        draws = [jax.random.normal(jax.random.fold_in(rng, 0)) for rng in rngs]
        draw = np.asarray(draws, np.float64)[:, None]
        mean, log_variance = np.asarray(amplitude, np.float64).T
        return mean + np.exp(log_variance / 2) * draw

    def _checked(self, low_passed):
        own = self.preprocessing
        low_passed = np.asarray(low_passed, np.float64)
        fits = low_passed.ndim == 2 and low_passed.shape[1] >= 1
        if not fits or own.channels not in (1, low_passed.shape[-1]):
            raise ConfigError(
                f"a record of shape {low_passed.shape} for a model of {own.channels} "
                "component(s): give [samples, components]"
            )
        if len(low_passed) < own.num_samples:
            raise ConfigError(
                f"a record of {len(low_passed) / own.sampling_rate:g} s is shorter than"
                f" the window of the model, {own.seconds:g} s; give a longer record or"
                " a model of shorter windows"
            )
        if not np.isfinite(low_passed).all():
            raise ConfigError(
                "the record is not finite; cut it or fill what is missing"
            )
        still = np.flatnonzero(np.ptp(low_passed, axis=0) == 0)
        if still.size:
            raise ConfigError(
                f"component {still[0]} is constant; give a record of working components"
            )
        return low_passed


def root_key(seed, low_passed):
    """The key of all draws for a record [T, C], by its first component and a seed."""
    first = np.ascontiguousarray(low_passed[:, 0], np.float32)
    found = hashlib.sha256(first.tobytes()).digest()[:4]
    return jax.random.fold_in(jax.random.key(seed), int.from_bytes(found, "little"))


def load(checkpoint_folder=None):
    """The model of a run, or a packaged one.

    Args:
        checkpoint_folder: folder of a run, with `model.json` and `checkpoints/`, or
            one that `broaden_package` wrote; None for the one of this package.

    Returns:
        `Broadener`, with averaged weights where the run keeps them.

    Raises:
        ConfigError: no such model, or one of other preprocessing.
        StorageError: no checkpoint can be restored.
    """
    model, variables, entry, source = trained.read(
        checkpoint_folder,
        PACKAGED,
        find_network,
        name="broaden",
        noun="model",
        config=CONFIG,
    )
    preprocessing = Preprocessing.from_json(entry)
    about = described.entries_beside(preprocessing, entry)
    _check_fit(source, model, preprocessing)
    process = _process(source, about)
    return Broadener(model, variables, preprocessing, process, about, source)


def find_network(folder, networks):
    """The name of the one broadening model among the networks of a run.

    Raises:
        ConfigError: there is none, or more than one.
    """
    return trained.find_network(
        folder, networks, SignalDiT, noun="broadening models", config=CONFIG
    )


def check_sampling(about, *, sampler=None, num_steps=None, guidance=None):
    """Raises ConfigError for a sampler, number of steps or guidance out of range.

    Args:
        about: what `model.json` says about the training.
        sampler, num_steps, guidance: None is not looked at.
    """
    if sampler is not None and sampler not in samplers.SAMPLERS:
        raise ConfigError(
            f"sampler {sampler!r} is none of {', '.join(samplers.SAMPLERS)}"
        )
    if num_steps is not None and not 1 <= num_steps <= 1000:
        raise ConfigError(f"steps {num_steps} must be 1 to 1000")
    if guidance is None or guidance == 1:
        return
    if not (math.isfinite(guidance) and guidance >= 0):
        raise ConfigError(
            f"guidance {guidance} must be finite and at least 0; 1 is without"
        )
    if about.get("diffusion", {}).get("condition_dropout") == 0:
        raise ConfigError(
            f"guidance {guidance:g}: the model was trained with loss.condition_dropout "
            "0 and knows no missing condition; leave --guidance at 1"
        )


def _process(folder, about):
    described = about.get("diffusion")
    if not isinstance(described, dict) or "process" not in described:
        raise ConfigError(
            f"{folder}: model.json does not say which diffusion process the model was "
            "trained on; train it with experiments.train"
        )
    try:
        return processes.make_process(
            described["process"],
            **{
                "parameterization": described.get("parameterization", "velocity"),
                **(described.get("options") or {}),
            },
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{folder}: {error}") from None


def _check_fit(folder, model, preprocessing):
    sizes = {
        "samples a window": (model.num_samples, preprocessing.num_samples),
        "components": (model.channels, preprocessing.channels),
        "scalars": (model.num_scalars, 2),
    }
    for what, (own, stated) in sizes.items():
        if own != stated:
            raise ConfigError(
                f"{folder}: the model has {own} {what} and its preprocessing "
                f"{stated}; copy model.json and weights from the same run"
            )
    by_condition = preprocessing.normalization == "by_x"
    if model.amplitude_head and by_condition:
        raise ConfigError(
            f"{folder}: normalization 'by_x' leaves nothing for amplitude_head to say; "
            "copy model.json and weights from the same run"
        )
    if by_condition:
        return
    if not model.amplitude_head or preprocessing.units != "m/s^2":
        raise ConfigError(
            f"{folder}: a model without amplitude_head, on records in "
            f"{preprocessing.units}, cannot say how strong its samples are; train one "
            "with data.amplitude and model.amplitude_head on records in m/s^2, or with "
            "data.normalization by_x"
        )
