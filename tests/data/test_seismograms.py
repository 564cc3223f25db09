import numpy as np
import pytest

from jaxmodels.data import seismograms
from jaxmodels.data.seismograms import Source

RATE, SECONDS, P_TIME = 100.0, 40.0, 8.0


def motion(seed, magnitude=5.0, distance=20.0, q0=180.0, kappa=0.03):
    source = Source(magnitude, 50.0, q0, kappa)
    return seismograms.seismogram(
        np.random.default_rng(seed),
        source,
        distance,
        kappa=kappa,
        p_time=P_TIME,
        seconds=SECONDS,
        sampling_rate=RATE,
    )


def spectrum(**fields):
    """Mean-square Fourier amplitude of horizontals over draws, at 1 to 20 Hz."""
    squares = [
        np.square(np.abs(np.fft.rfft(motion(seed, **fields)[0][:, 1:], axis=0)))
        for seed in range(24)
    ]
    frequency = np.fft.rfftfreq(round(SECONDS * RATE), 1 / RATE)
    bands = [(frequency >= low) & (frequency < 1.5 * low) for low in (1, 4, 13)]
    mean = np.mean(squares, axis=(0, 2))
    return np.array([mean[band].mean() for band in bands])


def test_minimum_phase_of_a_one_pole_filter_is_that_filter():
    turn = np.exp(-2j * np.pi * np.arange(129) / 256)
    response = 1 / (1 - 0.7 * turn)
    found = seismograms.minimum_phase(np.log(np.abs(response)), 256)
    np.testing.assert_allclose(found, response, atol=1e-12)


def test_p_and_s_begin_where_they_are_said_to():
    rises = []
    for seed in range(12):
        waveform, p, s = motion(seed)
        assert p == round(P_TIME * RATE)
        assert not waveform[:p].any() and np.abs(waveform[p]).max() > 0
        power = np.square(waveform[:, 1:]).sum(axis=1)
        rises.append(power[s : s + 50].mean() / power[s - 50 : s].mean())
    assert np.median(rises) > 5


def test_s_follows_p_by_the_distance():
    # 1 / beta - 1 / alpha = 0.12 s/km; alpha / beta varies by 2 percent.
    delays = [motion(seed, distance=50.0)[2] / RATE - P_TIME for seed in range(20)]
    assert np.mean(delays) == pytest.approx(50 * 0.1206, rel=0.05)


def test_p_shakes_the_vertical_and_s_the_horizontals_most():
    shares = []
    for seed in range(12):
        waveform, p, s = motion(seed)
        parts = waveform[p : s - 10], waveform[s : s + 300]
        shares.append([np.square(x[:, 0]).sum() / np.square(x).sum() for x in parts])
    early, late = np.median(shares, axis=0)
    assert early > 0.5 > 0.3 > late


def test_components_share_the_times_of_arrival():
    waveform, *_ = motion(3, magnitude=6.0)
    power = np.square(waveform)
    smooth = np.stack([np.convolve(x, np.ones(100), "same") for x in power.T])
    assert np.corrcoef(np.sqrt(smooth))[1, 2] > 0.7


def test_spectra_scale_with_magnitude_as_brune_says():
    frequency = np.array([1.2, 4.8, 15.6])
    amplitudes = [
        seismograms.brune_amplitude(frequency, Source(m, 50.0, 180.0, 0.03), 20.0)
        for m in (6.0, 5.0)
    ]
    measured = spectrum(magnitude=6.0) / spectrum(magnitude=5.0)
    # A large event begins to shake for longer than it is recorded.
    expected = np.square(amplitudes[0] / amplitudes[1])
    np.testing.assert_allclose(np.log(measured), np.log(expected), atol=0.5)


def test_brune_spectra_rise_with_the_square_of_frequency_and_level_off():
    source = Source(5.0, 50.0, 180.0, 0.03)
    low, high = source.corner_frequency / 50, source.corner_frequency * 50
    near = seismograms.brune_amplitude(
        np.array([low, 2 * low, high, 2 * high]), source, 9
    )
    assert near[1] / near[0] == pytest.approx(4.0, rel=1e-2)
    assert near[3] / near[2] == pytest.approx(1.0, rel=1e-2)
    plateau = seismograms.brune_amplitude(low, source, 18.0)
    assert near[0] / plateau == pytest.approx(2.0)
    p_corner = seismograms.brune_amplitude(high, source, 9.0, "P")
    assert p_corner < near[2]


def test_attenuation_takes_high_frequencies():
    strong = spectrum(q0=60.0, distance=60.0) / spectrum(q0=240.0, distance=60.0)
    assert strong[0] > 1.5 * strong[1] > 2 * strong[2]
    damped = spectrum(kappa=0.06) / spectrum(kappa=0.02)
    expected = np.exp(-2 * np.pi * 0.04 * np.array([1.2, 4.8, 15.6]))
    np.testing.assert_allclose(np.log(damped), np.log(expected), atol=0.5)


def test_peak_accelerations_have_the_right_order():
    expected = {(5.0, 20.0): 34.0, (6.0, 30.0): 98.0, (7.0, 10.0): 959.0}  # cm/s^2
    for (magnitude, distance), value in expected.items():
        peaks = [
            np.abs(motion(seed, magnitude, distance)[0][:, 1:]).max() * 100
            for seed in range(15)
        ]
        assert value / 3 < np.median(peaks) < value * 3


def test_arrivals_follow_the_envelope_of_saragoni_and_hart():
    duration = 3.0
    times = seismograms.envelope_times(np.random.default_rng(0), 50_000, duration)
    # w(t) = t^b exp(-c t / end) with its peak at 0.2 end, and 0.05 of it at the end.
    end, grid = 2 * duration, np.linspace(1e-6, 8 * duration, 20_000)
    power = -0.2 * np.log(0.05) / (1 + 0.2 * (np.log(0.2) - 1))
    envelope = (grid / end) ** power * np.exp(-power / 0.2 * grid / end)
    assert envelope[np.searchsorted(grid, end)] == pytest.approx(
        0.05 * envelope.max(), rel=1e-2
    )
    for moment in (1, 2):
        mean = np.sum(grid**moment * envelope) / np.sum(envelope)
        assert np.mean(times**moment) == pytest.approx(mean, rel=0.03)


def test_noise_has_its_level_and_the_microseism():
    rng = np.random.default_rng(2)
    noises = [seismograms.draw_noise(rng, 6000, RATE, 1e-3) for _ in range(20)]
    for noise in noises:
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(1e-3)
    power = np.mean([np.abs(np.fft.rfft(noise, axis=0)) ** 2 for noise in noises], 0)
    frequency = np.fft.rfftfreq(6000, 1 / RATE)
    level = [
        power[np.abs(frequency - center) < 0.2 * center].mean()
        for center in (0.2, 1.0, 30.0)
    ]
    assert level[0] > 2 * level[1] > 2 * level[2]
