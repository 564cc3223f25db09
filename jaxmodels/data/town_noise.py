"""What people do near a seismograph: vehicles, footsteps, machines.

A picker that never saw them takes them for earthquakes. They are drawn from wide
ranges, and none has the order of an earthquake: no second wave, larger and across the
first, at a time that its distance sets.

Shapes use N samples of a window.
"""

import math

import numpy as np
import scipy.signal

SIZE = (0.3, 1.5)  # log10 of the size beside noise of size 1


def add_vehicle(rng, noise, sampling_rate):
    """Adds a vehicle that passes by to [N, 3]: ever nearer, ever farther, as it came.

    Its waves fall off with its distance from the seismograph, in the plane.
    """
    time = _time(noise, sampling_rate)
    seconds = 10 ** rng.uniform(-0.3, 1.0)  # from the distance at closest to its speed
    away = (time - rng.uniform(0.0, time[-1])) / seconds
    fall = rng.uniform(0.5, 2.0)
    envelope = (1 + away**2) ** -fall
    noise += envelope[:, None] * _rumble(rng, len(noise), sampling_rate)


def add_footsteps(rng, noise, sampling_rate):
    """Adds someone who walks by to [N, 3]: blows in even steps, of one direction."""
    time = _time(noise, sampling_rate)
    step = rng.uniform(0.3, 1.2)
    count = int(rng.integers(2, 25))
    first = rng.uniform(-step * count / 2, time[-1])
    places = first + step * (np.arange(count) + 0.05 * rng.standard_normal(count))
    nearest, width = rng.integers(count), rng.uniform(0.1, 1.0) * count
    heights = (1 + ((np.arange(count) - nearest) / width) ** 2) ** -1.0
    heights *= np.exp(0.2 * rng.standard_normal(count))
    ring, frequency = 10 ** rng.uniform(-1.7, -0.7), rng.uniform(5.0, 40.0)
    frequency = min(frequency, 0.45 * sampling_rate)
    wave = np.zeros(len(noise))
    for place, height in zip(places, heights, strict=True):
        since = time - place
        kept = since >= 0
        blow = np.exp(-since[kept] / ring)
        wave[kept] += height * blow * np.sin(2 * math.pi * frequency * since[kept])
    noise += wave[:, None] * _sizes(rng)


def add_machine(rng, noise, sampling_rate):
    """Adds a machine to [N, 3] that is switched on, runs, and is switched off."""
    time = _time(noise, sampling_rate)
    seconds = 10 ** rng.uniform(0.0, 1.5)
    on = rng.uniform(-seconds, time[-1])
    up, down = 10 ** rng.uniform(-2.0, 0.5, 2)
    envelope = np.clip((time - on) / up, 0, 1) * np.clip(
        (on + seconds - time) / down, 0, 1
    )
    if rng.uniform() < 0.5:
        wave = _rumble(rng, len(noise), sampling_rate)
    else:
        base = rng.uniform(2.0, 0.2 * sampling_rate)
        tones = base * np.arange(1, 1 + rng.integers(1, 4))
        tones = tones[tones < 0.48 * sampling_rate]
        phases = 2 * math.pi * (np.outer(time, tones) + rng.uniform(size=len(tones)))
        wave = np.cos(phases) @ rng.standard_normal((len(tones), 3)) * _sizes(rng)
    noise += envelope[:, None] * wave


KINDS = (add_vehicle, add_footsteps, add_machine)


def add_town(rng, noise, sampling_rate):
    """Adds one to three of `KINDS` to noise [N, 3] of size 1, in place."""
    for _ in range(rng.integers(1, 4)):
        KINDS[rng.integers(len(KINDS))](rng, noise, sampling_rate)


def _time(noise, sampling_rate):
    return np.arange(len(noise)) / sampling_rate


def _sizes(rng):
    """Of the three components."""
    return 10 ** rng.uniform(*SIZE) * np.exp(0.5 * rng.standard_normal(3))


def _rumble(rng, length, sampling_rate):
    """Noise [N, 3] around a frequency, of the size of a transient."""
    center = rng.uniform(1.5, 0.4 * sampling_rate)
    low = center / (1 + rng.uniform(0.1, 1.5))
    high = min(center * (1 + rng.uniform(0.1, 1.5)), 0.49 * sampling_rate)
    band = scipy.signal.butter(2, (low, high), "band", fs=sampling_rate, output="sos")
    wave = scipy.signal.sosfilt(band, rng.standard_normal((length, 3)), axis=0)
    return wave / (wave.std() + 1e-12) * _sizes(rng)
