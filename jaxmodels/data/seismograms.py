"""Three-component accelerograms of a point source, with exactly known P and S.

The spectrum is that of Brune (1970) behind geometric spreading, attenuation and a site.
Its minimum-phase pulse repeats at random times, as waves arrive that were scattered on
their way: their density follows the envelope of Saragoni & Hart (1974), as in the
stochastic method (Boore, 2003), and a coda. All components and all frequencies share
these times, so what is low in frequency tells where the rest is.

Shapes use T samples, K scattered arrivals, F frequencies.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
import scipy.fft

BAR = 1e5  # Pa
DENSITY = 2800.0  # kg/m^3
SHEAR_VELOCITY = 3500.0  # m/s
VELOCITY_RATIO = 1.73  # of P to S
# Averages over the focal sphere (Boore & Boatwright, 1984), and the free surface.
RADIATION = {"P": 0.52, "S": 0.63}
FREE_SURFACE = 2.0
SPREADING_CROSSOVER = 70.0  # km; from there on surface waves carry the energy
Q_EXPONENT = 0.5
ENVELOPE_PEAK, ENVELOPE_END = 0.2, 0.05  # Saragoni & Hart's epsilon and eta
SITE_KNOTS = np.log(np.geomspace(0.1, 50.0, 9))
SITE_GAIN = 0.6  # of horizontal motion over rock, ln
ARRIVALS_PER_SECOND = 80.0
PADDING = 10.0  # seconds of silence, so that the end does not wrap to the beginning


class Source(NamedTuple):
    """An event.

    Attributes:
        magnitude: moment magnitude.
        stress_drop: bar.
        q0: Q at 1 Hz of the paths from it.
        kappa: s, median of the sites around it.
        region: index into the options' `regions`.
    """

    magnitude: float
    stress_drop: float
    q0: float
    kappa: float
    region: int = 0

    @property
    def moment(self):
        """N m (Hanks & Kanamori, 1979)."""
        return 10 ** (1.5 * self.magnitude + 9.1)

    @property
    def corner_frequency(self):
        """Of S in Hz: 0.49 beta (stress drop / moment)^(1/3) in SI (Brune, 1970)."""
        ratio = self.stress_drop * BAR / self.moment
        return 0.49 * SHEAR_VELOCITY * ratio ** (1 / 3)


def s_minus_p(distance, velocity_ratio=VELOCITY_RATIO):
    """Seconds from P to S at a distance in km."""
    return 1e3 * distance / SHEAR_VELOCITY * (1 - 1 / velocity_ratio)


def seismogram(
    rng,
    source,
    distance,
    *,
    kappa,
    p_time,
    seconds,
    sampling_rate,
    arrivals=None,
    site=None,
    ratio_spread=0.02,
):
    """The motion at one station, without noise.

    Args:
        rng: numpy generator; everything not named here is drawn from it.
        source: a `Source`.
        distance: hypocentral, km.
        kappa: of the site, s.
        p_time: of P after the first sample, s.
        seconds, sampling_rate: of the record.
        arrivals: in the place of `scattered_arrivals`.
        site: (rng, frequency [F]) -> [2, F], what comes on top of the logarithm of the
            vertical and the horizontal site; nothing when omitted.
        ratio_spread: standard deviation of the logarithm of the velocity ratio.

    Returns:
        float64 [T, 3] in m/s^2, and the samples at which P and S begin; nothing moves
        before the former.
    """
    length = round(seconds * sampling_rate)
    padded = scipy.fft.next_fast_len(length + round(PADDING * sampling_rate), real=True)
    velocity_ratio = VELOCITY_RATIO * math.exp(ratio_spread * rng.standard_normal())
    p_sample = round(p_time * sampling_rate)
    s_time = p_time + s_minus_p(distance, velocity_ratio)
    s_sample = round(s_time * sampling_rate)
    spectra = _pulse_spectra(rng, source, distance, kappa, padded, sampling_rate, site)
    trains = (arrivals or scattered_arrivals)(
        rng, source, distance, p_sample, s_sample, length, padded, sampling_rate
    )
    # Wave kinds add up; each component has its own site.
    spectrum = np.einsum("wcf,wcf->cf", scipy.fft.rfft(trains), spectra)
    vertical, radial, transverse = scipy.fft.irfft(spectrum, padded)[:, :length]
    azimuth = rng.uniform(0, 2 * math.pi)
    north = radial * math.cos(azimuth) - transverse * math.sin(azimuth)
    east = radial * math.sin(azimuth) + transverse * math.cos(azimuth)
    motion = np.stack([vertical, north, east], axis=1)
    motion[:p_sample] = 0.0  # what rounding left there
    return motion, p_sample, s_sample


def brune_amplitude(frequency, source, distance, wave="S"):
    """Fourier amplitude of acceleration at a distance without attenuation, in m/s.

    Boore (2003), eqs. 2 to 7: radiation, free surface, omega-square source, spreading.

    Args:
        frequency: Hz, [...].
        distance: km.
        wave: "P" or "S"; the corner of P lies higher by the ratio of velocities.
    """
    plateau, corner = _plateau(source, distance, wave)
    frequency = np.asarray(frequency)
    omega_squared = np.square(2 * math.pi * frequency)
    return plateau * omega_squared / (1 + np.square(frequency / corner))


def _plateau(source, distance, wave):
    """Displacement amplitude below the corner in m s, and that corner in Hz."""
    ratio = VELOCITY_RATIO if wave == "P" else 1.0
    beyond = max(distance / SPREADING_CROSSOVER, 1.0)
    spreading = math.sqrt(beyond) / (1e3 * distance)
    velocity = SHEAR_VELOCITY * ratio
    scale = RADIATION[wave] * FREE_SURFACE / (4 * math.pi * DENSITY * velocity**3)
    return scale * source.moment * spreading, source.corner_frequency * ratio


def _pulse_spectra(rng, source, distance, kappa, padded, sampling_rate, site):
    """Spectra of the pulse of P, S and coda in vertical, radial and transverse.

    Returns:
        complex [3, 3, F]; an arrival of amplitude 1 at sample 0 is its inverse `rfft`.
    """
    frequency, log_frequency, shared = _frequency_axis(padded, sampling_rate)
    knots = 0.35 * rng.standard_normal((2, len(SITE_KNOTS)))
    horizontal = np.interp(log_frequency, SITE_KNOTS, knots[0] + SITE_GAIN)
    # A vertical site is weaker, and partly the same.
    vertical = np.interp(log_frequency, SITE_KNOTS, 0.4 * knots[0] + 0.4 * knots[1])
    if site is not None:
        more = site(rng, frequency)
        vertical, horizontal = vertical + more[0], horizontal + more[1]
    seconds = 1e3 * distance / SHEAR_VELOCITY
    log_spectra = np.empty((3, 2, len(frequency)))
    # Q of P is taken as that of S, over a shorter time; scattered waves of the coda
    # have been on their way for longer.
    times = {"P": seconds / VELOCITY_RATIO, "S": seconds, "coda": seconds + 8.0}
    for index, (wave, time) in enumerate(times.items()):
        plateau, corner = _plateau(source, distance, "P" if wave == "P" else "S")
        log_path = math.log(plateau) - np.log1p(np.square(frequency / corner)) + shared
        log_path -= math.pi * time / source.q0 * frequency ** (1 - Q_EXPONENT)
        steeper = math.pi * kappa * frequency
        log_spectra[index, 0] = log_path + vertical - 0.7 * steeper
        log_spectra[index, 1] = log_path + horizontal - steeper
    spectra = minimum_phase(log_spectra, padded)
    # omega^2, as two differences, each of minimum phase: an amplitude of 0 at zero
    # frequency has no logarithm.
    turn = np.exp(-2j * math.pi * frequency / sampling_rate)
    spectra *= sampling_rate * np.square(sampling_rate * (1 - turn))
    return spectra[:, [0, 1, 1]]


@functools.lru_cache(maxsize=8)
def _frequency_axis(padded, sampling_rate):
    """Frequencies [F], their logarithms, and log (f / difference)^2 there."""
    frequency = scipy.fft.rfftfreq(padded, 1 / sampling_rate)
    log_frequency = np.log(np.maximum(frequency, frequency[1]))
    return frequency, log_frequency, -2 * np.log(np.sinc(frequency / sampling_rate))


def minimum_phase(log_amplitude, length):
    """The causal spectrum of an amplitude whose energy comes soonest.

    Its cepstrum is the causal part of that of the amplitude (Oppenheim & Schafer).

    Args:
        log_amplitude: float [..., F], finite.
        length: of the signal, F = length // 2 + 1.

    Returns:
        complex [..., F] with that amplitude.
    """
    cepstrum = scipy.fft.irfft(log_amplitude, length)
    cepstrum[..., 1 : (length + 1) // 2] *= 2.0
    cepstrum[..., length // 2 + 1 :] = 0.0
    return np.exp(scipy.fft.rfft(cepstrum))


def envelope_times(rng, count, duration):
    """Times whose density is Saragoni and Hart's envelope, s.

    w(t) = t^b exp(-c t / t_end), largest at `ENVELOPE_PEAK` t_end and there 1 over
    `ENVELOPE_END` times its value at t_end = 2 `duration` (Boore, 2003, eqs. 27 to 31):
    the density of a gamma distribution.
    """
    peak, end = ENVELOPE_PEAK, ENVELOPE_END
    power = -peak * math.log(end) / (1 + peak * (math.log(peak) - 1))
    return rng.gamma(power + 1, 2 * duration * peak / power, count)


def scattered_arrivals(rng, source, distance, p, s, length, padded, sampling_rate):
    """When each wave comes and how it is polarized.

    Args:
        p, s: samples of the direct waves.

    Returns:
        [3, 3, `padded`]: P, S and coda by vertical, radial and transverse. The squares
        of P and of S add up to 1 each.
    """
    trains = np.zeros((3, 3, padded))
    duration = 1 / source.corner_frequency + 0.05 * distance
    incidence = rng.uniform(0.1, 0.6)  # rad from the vertical
    to_s = max((s - p) / sampling_rate, 0.2)
    # P: along the ray, ever less so the later it comes.
    delay, size = _scattered(rng, 0.7 * duration)
    spread = np.minimum(delay / to_s, 1)
    tilt = incidence + 0.5 * spread * rng.standard_normal(len(delay))
    aside = 0.3 * spread * rng.standard_normal(len(delay))
    polarization = [np.cos(tilt), np.sin(tilt), aside]
    put(trains[0], p + delay * sampling_rate, size * np.stack(polarization), length)
    # S: across the ray, at an angle that the source sets for the direct wave.
    delay, size = _scattered(rng, duration)
    spread = np.minimum(delay / duration, 1)
    angle = rng.uniform(0, math.pi) + 1.5 * spread * rng.standard_normal(len(delay))
    tilt = incidence + 0.4 * spread * rng.standard_normal(len(delay))
    across = np.cos(angle)
    polarization = [-across * np.sin(tilt), across * np.cos(tilt), np.sin(angle)]
    put(trains[1], s + delay * sampling_rate, size * np.stack(polarization), length)
    # Coda: from everywhere, falling off with the time since the origin.
    left = (length - s) / sampling_rate
    delay = rng.uniform(0, left, rng.poisson(ARRIVALS_PER_SECOND * left))
    origin = 1e3 * distance / SHEAR_VELOCITY + duration
    falling = np.power(1 + delay / origin, -1.5) * np.minimum(delay / duration, 1)
    share = 0.25 * math.exp(0.4 * rng.standard_normal())
    size = share * falling / math.sqrt(ARRIVALS_PER_SECOND * duration)
    isotropic = rng.standard_normal((3, len(delay)))
    put(trains[2], s + delay * sampling_rate, size * isotropic, length)
    return trains


def _scattered(rng, duration):
    """Delays [K] in s after the direct wave, which is the first, and amplitudes [K].

    The direct wave has some hundredths of the energy. Amplitudes have heavy tails, so
    that the shaking comes in bursts, as it does.
    """
    count = 1 + rng.poisson(ARRIVALS_PER_SECOND * max(duration, 0.5))
    delay = np.concatenate([[0.0], envelope_times(rng, count, duration)])
    size = rng.standard_normal(count + 1)
    size *= np.exp(0.4 * rng.standard_normal(count + 1))
    direct = math.sqrt(rng.uniform(0.01, 0.08))
    size[1:] *= math.sqrt((1 - direct**2) / np.sum(np.square(size[1:])))
    size[0] = math.copysign(direct, size[0])
    return delay, size


def put(train, place, values, length):
    """Adds values [3, K] to a train [3, padded] at the nearest samples below length."""
    place = np.rint(place).astype(np.int64)
    kept = place < length
    for component, value in zip(train, values, strict=True):
        component += np.bincount(place[kept], value[kept], len(component))


def draw_noise(rng, length, sampling_rate, level):
    """Noise of the ground and the instrument: red, with the microseism at 0.2 Hz.

    Args:
        level: rms of all components together, m/s^2.

    Returns:
        float64 [length, 3].
    """
    padded = scipy.fft.next_fast_len(length, real=True)
    frequency, log_frequency, _ = _frequency_axis(padded, sampling_rate)
    slope, bump = rng.uniform(0.0, 0.8), 10 ** rng.uniform(-0.5, 0.7)
    shape = np.exp(-slope * np.maximum(log_frequency, math.log(0.02)))
    microseism = np.square((log_frequency - math.log(0.2)) / 0.35)
    shape += bump * np.exp(-0.5 * microseism)
    shape[0] = 0.0
    sizes = np.exp(0.2 * rng.standard_normal((3, 1)))
    white = scipy.fft.rfft(rng.standard_normal((3, padded)))
    noise = scipy.fft.irfft(white * shape * sizes, padded)[:, :length]
    return (noise * (level / np.sqrt(np.mean(np.square(noise))))).T
