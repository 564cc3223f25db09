import numpy as np
import pytest
import scipy.signal

from jaxmodels.data import instruments
from jaxmodels.data.instruments import Instruments, make_instruments, onset_size
from jaxmodels.train.errors import ConfigError

RATE = 100.0
STILL = dict(microseism=0.0, lines=0.0, swell=0.0, bursts=0.0)
PLAIN = dict(lowpassed=0.0, quantized=0.0, clipped=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("shape", ["high", "low"])
def test_sections_are_butterworth_filters_at_their_damping(shape):
    made = instruments.section(shape, 3.0, np.sqrt(0.5), RATE)
    expected = scipy.signal.butter(2, 3.0, shape, fs=RATE, output="sos")
    np.testing.assert_allclose(made, expected[0], rtol=1e-10)


def test_a_seismometer_writes_velocity_above_its_corner():
    time = np.arange(4000) / RATE
    acceleration = np.cos(2 * np.pi * 5.0 * time)
    section = instruments.section("band", 0.5, 0.7, RATE)
    written = scipy.signal.sosfilt(section[None], acceleration)
    velocity = np.sin(2 * np.pi * 5.0 * time)
    np.testing.assert_allclose(
        written[3000:] / np.abs(written[3000:]).max(), velocity[3000:], atol=0.2
    )


@pytest.mark.parametrize("seed", range(8))
def test_no_instrument_writes_anything_before_the_motion_begins(seed):
    motion = np.zeros((400, 3))
    motion[100:] = rng(1).standard_normal((300, 3))
    written = Instruments().respond(rng(seed), motion, RATE)
    assert not written[:100].any() and np.abs(written[100]).max() > 0
    later = Instruments().respond(rng(seed), motion[100:], RATE)
    np.testing.assert_allclose(written[100:], later, atol=1e-12)


def test_noise_has_size_one_above_one_hertz():
    color = [lambda f, log_f: 0 * f, lambda f, log_f: -0.5 * log_f]
    for one in color:
        noise = instruments.colored(rng(), 20_000, RATE, one)
        slow = scipy.signal.butter(8, 1.0, "high", fs=RATE, output="sos")
        sizes = scipy.signal.sosfilt(slow, noise, axis=0).std(axis=0)
        np.testing.assert_allclose(sizes, 1.0, rtol=0.15)
        assert noise.shape == (20_000, 3)


def test_noise_follows_its_color():
    noise = instruments.colored(rng(), 40_000, RATE, lambda f, log_f: -log_f)
    frequency, power = scipy.signal.welch(noise[:, 0], RATE, nperseg=1024)
    band = (frequency > 2) & (frequency < 40)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.1)


def test_the_microseism_is_slower_than_half_a_hertz():
    shares = []
    for share in (0.0, 1.0):
        made = Instruments(**{**STILL, "microseism": share})
        noise = np.stack(
            [made.noise(rng(seed), 6000, RATE)[:, 0] for seed in range(10)]
        )
        frequency, power = scipy.signal.welch(noise, RATE, nperseg=4096)
        slow = power[:, frequency < 0.5].sum(axis=1) / power.sum(axis=1)
        shares.append(np.median(slow))
    assert shares[1] > max(1.3 * shares[0], 0.5)


def test_the_signal_stands_above_the_noise_by_the_ratio():
    signal = np.zeros((1000, 3))
    signal[400:] = rng(1).standard_normal((600, 3))
    size = onset_size(signal[400:], RATE)
    noise = rng(2).standard_normal((1000, 3))
    made = Instruments(snr=(20.0, 20.0), **PLAIN)
    written = made.write(rng(), signal, noise, size)
    ratio = onset_size(written[400:] - noise[400:], RATE)
    assert ratio == pytest.approx(10.0)
    np.testing.assert_array_equal(written[:400], noise[:400])
    np.testing.assert_array_equal(made.write(rng(), signal, noise, None), noise)


def test_counts_are_whole_and_clipped_records_have_a_range():
    noise = rng().standard_normal((500, 3))
    counts = Instruments(**{**PLAIN, "quantized": 1.0}).write(rng(3), 0, noise, None)
    steps = np.diff(np.unique(counts))
    np.testing.assert_allclose(
        steps / steps.min(), np.rint(steps / steps.min()), atol=1e-6
    )
    clipped = Instruments(**{**PLAIN, "clipped": 1.0}).write(rng(3), 0, noise, None)
    assert np.abs(clipped).max() < 0.81 * np.abs(noise).max()
    assert (np.abs(clipped) == np.abs(clipped).max()).sum() > 1


def test_bursts_are_added_at_some_place():
    calm = Instruments(**STILL).noise(rng(5), 2000, RATE)
    burst = Instruments(**{**STILL, "bursts": 1.0}).noise(rng(5), 2000, RATE)
    changed = np.abs(burst - calm).max(axis=1) > 1e-9
    assert 0 < changed.mean() < 1


def test_impossible_instruments_are_refused():
    with pytest.raises(ConfigError, match="not some of broadband, short_period"):
        make_instruments({"kinds": ("barometer",)})
    with pytest.raises(ConfigError, match=r"snr \(9.0, 3.0\) dB must be two numbers"):
        make_instruments({"snr": (9, 3)})
    with pytest.raises(ConfigError, match="clipped 2.0 is not between 0 and 1"):
        make_instruments({"clipped": 2.0})
    with pytest.raises(ConfigError, match="instruments {'noise': 1}: its fields are"):
        make_instruments({"noise": 1})
    assert make_instruments(False) is None and make_instruments(True) == Instruments()
