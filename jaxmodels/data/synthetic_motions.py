"""Synthetic three-component accelerograms for training, drawn by number.

A record is a function of the options, its event and its station, and of nothing else.
"""

import dataclasses
import hashlib
import itertools
import json
import math

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from jaxmodels.data import builder, local_waves, seismic_records, seismograms, text
from jaxmodels.train.errors import ConfigError

P_SHARE = (0.18, 0.22)  # where P lies in a record
WAVES = ("usual", "varied")
FADING = 2.0  # seconds over which a record without noise ends


@dataclasses.dataclass(frozen=True)
class SyntheticMotions:
    """Which records are drawn.

    Attributes:
        num_records: of the train split.
        num_held_out: of each of validation and test.
        stations: records of one event.
        seconds: of a record.
        sampling_rate: Hz.
        magnitude: least and largest moment magnitude, equally likely between them.
        distance: least and largest hypocentral distance in km, logarithmic.
        stress_drop: median in bar.
        regions: (Q at 1 Hz, kappa in s) of the regions that events fall in; two regions
            make two classes of events that differ in attenuation alone.
        noise: mean and standard deviation of log10 of the noise in m/s^2 (rms). None:
            there is none, nothing moves before P, and the record fades out, for noise
            and instruments that are drawn each time a window is seen.
        waves: "usual", or "varied" as those of `local_waves`, for pickers.
        seed: of all draws.

    Raises:
        ConfigError: fields out of range.
    """

    num_records: int = 4000
    num_held_out: int = 256
    stations: int = 4
    seconds: float = 60.0
    sampling_rate: float = 100.0
    magnitude: tuple[float, float] = (4.0, 7.5)
    distance: tuple[float, float] = (8.0, 120.0)
    stress_drop: float = 50.0
    regions: tuple[tuple[float, float], ...] = ((180.0, 0.03),)
    noise: tuple[float, float] | None = (-4.0, 0.6)
    waves: str = "usual"
    seed: int = 0

    def __post_init__(self):
        for name in ("seconds", "sampling_rate", "stress_drop"):
            object.__setattr__(self, name, float(getattr(self, name)))
        for name in ("magnitude", "distance", "noise"):
            pair = getattr(self, name)
            if pair is not None:
                object.__setattr__(self, name, tuple(map(float, pair)))
        regions = tuple(tuple(map(float, region)) for region in self.regions)
        object.__setattr__(self, "regions", regions)
        errors = [
            f"{name} {getattr(self, name)} must be at least 1"
            for name in ("num_records", "num_held_out", "stations")
            if getattr(self, name) < 1
        ]
        errors += [
            f"{name} {getattr(self, name)} must be greater than 0"
            for name in ("seconds", "sampling_rate", "stress_drop")
            if not getattr(self, name) > 0
        ]
        for name, least in (("magnitude", -2.0), ("distance", 1.0)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                errors.append(f"{name} {low, high} must rise from {least:g} or more")
        if self.waves not in WAVES:
            errors.append(f"waves {self.waves!r} are none of {', '.join(WAVES)}")
        if not self.regions or min(map(min, self.regions)) <= 0:
            errors.append(f"regions {self.regions} must be pairs of positive numbers")
        latest = P_SHARE[1] * self.seconds + seismograms.s_minus_p(self.distance[1])
        if not errors and latest > 0.9 * self.seconds:
            errors.append(
                f"seconds {self.seconds:g} leave no room after S, {latest:.1f} s into"
                f" a record at {self.distance[1]:g} km; raise it or lower distance"
            )
        if errors:
            raise ConfigError("; ".join(errors))


def draw_source(options, event):
    """The source of event number `event`, always the same one."""
    rng = np.random.default_rng([options.seed, event])
    region = int(rng.integers(len(options.regions)))
    q0, kappa = options.regions[region]
    return seismograms.Source(
        magnitude=rng.uniform(*options.magnitude),
        stress_drop=options.stress_drop * math.exp(0.6 * rng.standard_normal()),
        q0=q0 * math.exp(0.1 * rng.standard_normal()),
        kappa=kappa,
        region=region,
    )


def draw_record(options, event, station):
    """Record number `station` of event number `event`, always the same one.

    Returns:
        A dict: waveform float32 [T, 3] in m/s^2; p_sample, s_sample: the samples at
        which P and S begin; source_id, station, name; magnitude, distance (km),
        stress_drop (bar), corner_frequency (Hz), q0, kappa (s), snr (dB, infinite
        without noise), region, sampling_rate.
    """
    source = draw_source(options, event)
    rng = np.random.default_rng([options.seed, event, station])
    distance = math.exp(rng.uniform(*np.log(options.distance)))
    kappa = source.kappa * math.exp(0.35 * rng.standard_normal())
    p_time = options.seconds * rng.uniform(*P_SHARE)
    motion, p_sample, s_sample = seismograms.seismogram(
        rng,
        source,
        distance,
        kappa=kappa,
        p_time=p_time,
        seconds=options.seconds,
        sampling_rate=options.sampling_rate,
        **_waves(options),
    )
    motion, snr = _with_noise(rng, motion, p_sample, options)
    source_id = f"synthetic-{options.seed}-{event}"
    return {
        "waveform": motion.astype(np.float32),
        "sampling_rate": options.sampling_rate,
        "p_sample": float(p_sample),
        "s_sample": float(s_sample),
        "name": f"{source_id}.S{station}",
        "source_id": source_id,
        "station": f"S{station}",
        "magnitude": source.magnitude,
        "distance": distance,
        "stress_drop": source.stress_drop,
        "corner_frequency": source.corner_frequency,
        "q0": source.q0,
        "kappa": kappa,
        "snr": snr,
        "region": source.region,
    }


def _waves(options):
    """What `seismograms.seismogram` takes for the waves of the options."""
    if options.waves == "usual":
        return {}
    return {
        "arrivals": local_waves.varied_arrivals,
        "site": local_waves.resonances,
        "ratio_spread": local_waves.VARIED_VELOCITY_RATIO,
    }


def _with_noise(rng, motion, p_sample, options):
    """A motion [T, 3] as it is recorded, and its signal-to-noise ratio in dB."""
    if options.noise is None:
        length = min(round(FADING * options.sampling_rate), len(motion))
        fading = 0.5 + 0.5 * np.cos(np.pi * np.arange(length) / length)
        motion[len(motion) - length :] *= fading[:, None]
        return motion, math.inf
    level = 10 ** (options.noise[0] + options.noise[1] * rng.standard_normal())
    noise = seismograms.draw_noise(rng, len(motion), options.sampling_rate, level)
    power = np.mean(np.square(motion[p_sample:])) / np.mean(np.square(noise))
    return motion + noise, 10 * math.log10(power)


def event_numbers(options):
    """split -> range of the numbers of its events; no event is in two splits."""
    sizes = {"train": options.num_records}
    sizes |= dict.fromkeys(text.SPLITS[1:], options.num_held_out)
    ranges, first = {}, 0
    for split, size in sizes.items():
        stop = first + -(-size // options.stations)
        ranges[split] = range(first, stop)
        first = stop
    return ranges, sizes


@dataclasses.dataclass(eq=False)
class SyntheticConfig(tfds.core.BuilderConfig):
    """Names a data set by what is drawn."""

    options: SyntheticMotions | None = None


class SyntheticMotionsBuilder(builder.ArrayRecordBuilder):
    """Makes the records of `draw_record`.

    The version goes up when the same options are to give other records.
    """

    name = "synthetic_motions"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        number = tfds.features.Scalar(np.float32)
        more = ("stress_drop", "corner_frequency", "q0", "kappa", "snr")
        return builder.LocalInfo(
            builder=self,
            description=self.builder_config.description,
            features=seismic_records.features(
                **dict.fromkeys(more, number), region=tfds.features.Scalar(np.int64)
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in text.SPLITS}

    def _generate_examples(self, split):
        options = self.builder_config.options
        ranges, sizes = event_numbers(options)
        every = itertools.product(ranges[split], range(options.stations))
        places = itertools.islice(every, sizes[split])
        drawn = seismic_records.in_threads(
            lambda place: draw_record(options, *place), places
        )
        progress = tqdm.tqdm(
            drawn,
            f"drawing {split}",
            total=sizes[split],
            unit=" records",
            disable=None,
            leave=False,
        )
        yield from enumerate(progress)


def prepare_synthetic(options, data_dir=None):
    """Opens the data set of `SyntheticMotions`, drawing it when it is new.

    Raises:
        ConfigError, StorageError: see `builder.prepare`.
    """
    given = dataclasses.asdict(options)
    if given["waves"] == "usual":  # the name is that from before there was a choice
        del given["waves"]
    fields = json.dumps(given, sort_keys=True)
    config = SyntheticConfig(
        name=hashlib.sha256(fields.encode()).hexdigest()[:16],
        version=SyntheticMotionsBuilder.VERSION,
        description=f"synthetic ground motion: {fields}",
        options=options,
    )
    return builder.prepare(SyntheticMotionsBuilder, config, data_dir)
