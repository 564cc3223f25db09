import warnings

import numpy as np
import pytest

from jaxmodels.metrics import ground_motion, response_spectrum
from jaxmodels.signal import filters

eqsig = pytest.importorskip("eqsig", reason="eqsig is not installed: make test-parity")
pytestmark = pytest.mark.parity

RATE = 100.0


@pytest.fixture(scope="module", params=range(4))
def acceleration(request):
    """Strong shaking between 0.1 and 30 Hz, m/s^2; at rest at both ends."""
    rng = np.random.default_rng(request.param)
    noise = rng.standard_normal((4000, 1))
    decay = np.exp(-0.04 * np.pi * np.fft.rfftfreq(4000, 1 / RATE))
    noise = np.fft.irfft(np.fft.rfft(noise, axis=0) * decay[:, None], axis=0)
    envelope = np.exp(-(np.linspace(-1.5, 3, 4000) ** 2))[:, None]
    shaking = np.pad(envelope * noise, ((2000, 2000), (0, 0)))
    return filters.zero_phase_bandpass(shaking, RATE, 0.1, 30.0)[:, 0]


@pytest.mark.parametrize("first", [0, 3500])
def test_psa_is_that_of_eqsig(acceleration, first):
    acceleration = acceleration[first:]
    periods = np.array([0.3, 0.4, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0])
    peer = eqsig.AccSignal(acceleration, 1 / RATE)
    peer.generate_response_spectrum(response_times=periods, xi=0.05)
    got = response_spectrum.psa(acceleration, RATE, periods)
    np.testing.assert_allclose(got, peer.s_a, rtol=1e-4)


def test_intensities_are_those_of_eqsig(acceleration):
    peer = eqsig.AccSignal(acceleration, 1 / RATE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        peer.generate_cumulative_stats()
    got = ground_motion.arias(acceleration, RATE)
    np.testing.assert_allclose(got, peer.arias_intensity, rtol=1e-3)
    np.testing.assert_allclose(ground_motion.cav(acceleration, RATE), peer.cav)
    np.testing.assert_allclose(ground_motion.pga(acceleration), peer.pga)
    np.testing.assert_allclose(
        ground_motion.pgv(acceleration, RATE), peer.pgv, rtol=2e-2
    )
