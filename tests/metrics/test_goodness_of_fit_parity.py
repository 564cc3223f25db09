"""Against the time-frequency misfits of ObsPy."""

import warnings

import numpy as np
import pytest

from jaxmodels.metrics import goodness_of_fit

pytestmark = pytest.mark.parity

RATE = 50.0
# ObsPy samples its transform half a sample later, which tells near half the rate.
LOW, HIGH, NUM_FREQUENCIES = 1.0, 8.0, 20


@pytest.fixture(scope="module")
def tf_misfit():
    reason = "ObsPy is not installed: pip install 'jaxmodels[seismic]'"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own imports, not ours
        pytest.importorskip("obspy", reason=reason)
        return pytest.importorskip("obspy.signal.tf_misfit", reason=reason)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    time = np.arange(1000) / RATE
    shape = (time * np.exp(-time / 2))[:, None]
    observed = rng.standard_normal((time.size, 3)) * shape
    return 0.7 * observed + 0.4 * rng.standard_normal(observed.shape) * shape, observed


@pytest.mark.parametrize("name", ["EM", "PM", "EG", "PG"])
def test_misfits_and_goodness_are_those_of_obspy(tf_misfit, pair, name):
    generated, observed = pair
    found = goodness_of_fit.kristekova(
        generated, observed, RATE, low=LOW, high=HIGH, num_frequencies=NUM_FREQUENCIES
    )
    expected = [
        getattr(tf_misfit, name.lower())(
            one, reference, dt=1 / RATE, fmin=LOW, fmax=HIGH, nf=NUM_FREQUENCIES
        )
        for one, reference in zip(generated.T, observed.T, strict=True)
    ]
    assert found[name] == pytest.approx(np.mean(expected), rel=1e-3)
