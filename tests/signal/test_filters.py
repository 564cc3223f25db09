import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxmodels.signal import filters

RATE = 50.0
PADDING = 500


@pytest.fixture(scope="module")
def waveform():
    return np.random.default_rng(0).standard_normal((2, 700, 2))


def largest_difference(got, expected):
    return np.abs(np.asarray(got) - expected).max() / np.abs(expected).max()


def two_way(waveform, sos, padding=PADDING):
    """The peer's filter, forward and backward over one zero-padded array."""
    padded = np.pad(waveform, ((0, 0), (padding, padding), (0, 0)))
    filtered = signal.sosfiltfilt(sos, padded, axis=1, padlen=0)
    return filtered[:, padding:-padding]


@pytest.mark.parametrize(
    ("corner", "order"), [(0.7, 4), (1.0, 4), (5.0, 4), (20.0, 2), (1.0, 3)]
)
def test_zero_phase_lowpass_is_scipys_filter_forward_and_backward(
    waveform, corner, order
):
    expected = two_way(waveform, signal.butter(order, corner, fs=RATE, output="sos"))
    got = filters.zero_phase_lowpass(waveform, RATE, corner, order)
    assert got.dtype == np.float64
    assert largest_difference(got, expected) < 1e-10
    single = jnp.asarray(waveform, jnp.float32)
    got = filters.zero_phase_lowpass(single, RATE, jnp.float32(corner), order)
    assert got.dtype == jnp.float32
    assert largest_difference(got, expected) < 1e-6


@pytest.mark.parametrize(("corner", "order"), [(0.15, 4), (0.5, 8)])
def test_silence_is_long_enough_for_low_corners_and_high_orders(
    waveform, corner, order
):
    sos = signal.butter(order, corner, fs=RATE, output="sos")
    expected = two_way(waveform, sos, padding=5000)
    got = filters.zero_phase_lowpass(waveform, RATE, corner, order)
    assert largest_difference(got, expected) < 1e-9
    got = filters.causal_lowpass(waveform, RATE, corner, order)
    assert largest_difference(got, signal.sosfilt(sos, waveform, axis=1)) < 1e-9
    condition = filters.zero_phase_lowpass(waveform, RATE, corner, order)
    merged = filters.complementary_merge(
        waveform, condition, RATE, corner, iterations=1, order=order
    )
    assert largest_difference(merged, waveform) < 1e-12


def test_the_lowest_corner_sets_the_silence_which_a_traced_one_cannot():
    assert filters.lowpass_padding(1.0) == 10
    assert filters.lowpass_padding(np.array([5.0, 0.1])) == pytest.approx(50)
    traced = []
    jax.jit(lambda corner: traced.append(filters.lowpass_padding(corner)))(0.1)
    assert traced == [10]


def test_zero_phase_bandpass_is_scipys_filter_forward_and_backward(waveform):
    sos = signal.butter(4, (0.2, 15.0), "band", fs=RATE, output="sos")
    expected = two_way(waveform, sos, padding=1250)
    got = filters.zero_phase_bandpass(waveform, RATE, 0.2, 15.0)
    assert largest_difference(got, expected) < 1e-10


def test_causal_lowpass_is_scipys_filter_and_knows_no_future(waveform):
    sos = signal.butter(4, 1.0, fs=RATE, output="sos")
    got = filters.causal_lowpass(waveform, RATE, 1.0)
    assert largest_difference(got, signal.sosfilt(sos, waveform, axis=1)) < 1e-10
    changed = waveform.copy()
    changed[:, 400:] += 10.0
    after = filters.causal_lowpass(changed, RATE, 1.0)
    np.testing.assert_allclose(after[:, :400], got[:, :400], atol=1e-12)
    assert np.abs(after[:, 410:] - got[:, 410:]).max() > 1
    zero_phase = filters.zero_phase_lowpass(changed - waveform, RATE, 1.0)
    assert np.abs(zero_phase[:, 350:400]).max() > 1, "which leaks ahead of the onset"


def test_gain_is_one_at_rest_a_half_at_the_corner_and_zero_at_half_the_rate():
    gain = filters.lowpass_gain(1000, RATE, 5.0)
    np.testing.assert_allclose(gain[[0, 100, 500]], [1, 0.5, 0], atol=1e-12)
    one_way = filters.causal_gain(1000, RATE, 5.0)
    np.testing.assert_allclose(np.abs(one_way) ** 2, gain, atol=1e-12)
    band = filters.bandpass_gain(1000, RATE, 1.0, 5.0)
    np.testing.assert_allclose(band[[0, 20, 100, 500]], [0, 0.5, 0.5, 0], atol=1e-12)


def test_a_sine_above_the_corner_vanishes_and_one_below_stays():
    time = np.arange(2000) / RATE
    sines = np.sin(2 * np.pi * time[:, None] * np.array([0.2, 8.0]))
    low = filters.zero_phase_lowpass(sines, RATE, 1.0)[500:1500]
    np.testing.assert_allclose(low[:, 0], sines[500:1500, 0], atol=1e-4)
    assert np.abs(low[:, 1]).max() < 1e-6


def test_every_row_may_have_its_own_traced_corner(waveform):
    corners = np.array([0.8, 6.0])
    rows = [
        filters.zero_phase_lowpass(row, RATE, corner)
        for row, corner in zip(waveform, corners, strict=True)
    ]
    got = filters.zero_phase_lowpass(waveform, RATE, corners)
    np.testing.assert_allclose(got, rows, atol=1e-12)
    traced = jax.jit(lambda x, corner: filters.zero_phase_lowpass(x, RATE, corner))
    assert largest_difference(traced(jnp.asarray(waveform), corners), rows) < 1e-6


def test_gradients_in_waveform_and_corner_are_those_of_differences(waveform):
    waveform = jnp.asarray(waveform[:1, :60], jnp.float32)
    weights = jnp.cos(jnp.arange(60.0))[:, None]

    def score(x, corner, function):
        return jnp.sum(weights * function(x, RATE, corner, pad_seconds=2.0) ** 2)

    for function in (filters.zero_phase_lowpass, filters.causal_lowpass):
        by_waveform, by_corner = jax.grad(score, (0, 1))(waveform, 3.0, function)
        step = 1e-2
        differences = (
            score(waveform, 3.0 + step, function)
            - score(waveform, 3.0 - step, function)
        ) / (2 * step)
        np.testing.assert_allclose(by_corner, differences, rtol=1e-3)
        # The score is quadratic in the waveform.
        direction = jnp.roll(waveform, 7, axis=1)
        differences = score(waveform + direction, 3.0, function) - score(
            waveform - direction, 3.0, function
        )
        np.testing.assert_allclose(
            2 * jnp.sum(by_waveform * direction), differences, rtol=1e-4
        )
        assert np.isfinite(by_waveform).all()


def lf_snr(estimate, condition, corner):
    low = filters.zero_phase_lowpass(estimate, 100.0, corner)
    ratio = np.sum(condition**2) / np.sum((low - condition) ** 2)
    return 10 * np.log10(ratio)


def test_merge_leaves_of_the_misfit_what_the_closed_form_says():
    """Of a misfit e, LP(e) shrinks by (1 - |H|^2)^k; 60 s of white noise at 100 Hz."""
    rng = np.random.default_rng(0)
    truth, estimate = rng.standard_normal((2, 6000, 3))
    condition = filters.zero_phase_lowpass(truth, 100.0, 1.0)
    gain = filters.lowpass_gain(2**16, 100.0, 1.0)
    measured = {}
    for iterations in (0, 1, 4, 8):
        merged = filters.complementary_merge(
            estimate, condition, 100.0, 1.0, iterations
        )
        left = 2 * np.mean((gain * (1 - gain) ** iterations) ** 2)
        expected = 10 * np.log10(np.mean(gain**2) / left)
        measured[iterations] = lf_snr(merged, condition, 1.0)
        np.testing.assert_allclose(measured[iterations], expected, atol=1.5)
    assert measured[1] > 10 and measured[8] > 25


def test_merge_lifts_an_estimate_that_is_5_db_consistent_above_17_and_25_db():
    rng = np.random.default_rng(1)
    truth, misfit = rng.standard_normal((2, 6000, 3))
    condition = filters.zero_phase_lowpass(truth, 100.0, 1.0)
    estimate = truth + 10 ** (-5 / 20) * misfit
    np.testing.assert_allclose(lf_snr(estimate, condition, 1.0), 5, atol=1)
    for iterations, least in ((1, 17), (8, 25)):
        merged = filters.complementary_merge(
            estimate, condition, 100.0, 1.0, iterations
        )
        assert lf_snr(merged, condition, 1.0) > least


@pytest.mark.parametrize("causal", [False, True])
def test_merge_leaves_the_truth_and_pulls_others_to_the_condition(waveform, causal):
    condition = filters.lowpass(waveform, RATE, 1.0, causal=causal)
    merged = filters.complementary_merge(waveform, condition, RATE, 1.0, causal=causal)
    np.testing.assert_allclose(merged, waveform, atol=1e-12)
    single = filters.complementary_merge(
        jnp.asarray(waveform), jnp.asarray(condition), RATE, 1.0, causal=causal
    )
    np.testing.assert_allclose(single, waveform, atol=1e-5)
    other = np.roll(waveform, 100, axis=1)
    misfits = [
        np.linalg.norm(
            condition
            - filters.lowpass(
                filters.complementary_merge(
                    other, condition, RATE, 1.0, k, causal=causal
                ),
                RATE,
                1.0,
                causal=causal,
            )
        )
        for k in (0, 1, 8, 32)
    ]
    assert misfits[1] < 0.4 * misfits[0]
    assert misfits[3] < 0.7 * misfits[2] < 0.1 * misfits[0]


@pytest.mark.parametrize("iterations", [0, 2])
def test_merge_keeps_the_precision_of_the_estimate_whatever_the_conditions(
    waveform, iterations
):
    condition = filters.zero_phase_lowpass(waveform, RATE, 1.0)
    exact = filters.complementary_merge(
        waveform[:, ::-1], condition, RATE, 1.0, iterations
    )
    for dtype in (np.float64, np.float32, np.float16):
        estimate = waveform[:, ::-1].astype(dtype)
        for other in (np.float32, np.float64):
            merged = filters.complementary_merge(
                estimate, condition.astype(other), RATE, 1.0, iterations
            )
            assert merged.dtype == dtype and isinstance(merged, np.ndarray)
            np.testing.assert_allclose(
                merged,
                exact,
                atol=4 * np.finfo(dtype).eps + 1e-6,
                rtol=4 * np.finfo(dtype).eps,
            )
    single = jnp.asarray(waveform[:, ::-1], jnp.float32)
    merged = filters.complementary_merge(single, condition, RATE, 1.0, iterations)
    assert merged.dtype == jnp.float32 and isinstance(merged, jax.Array)


def test_merge_keeps_the_high_frequencies_of_the_estimate(waveform):
    condition = np.zeros_like(waveform)
    merged = filters.complementary_merge(waveform, condition, RATE, 1.0)
    sos = signal.butter(8, 4.0, "high", fs=RATE, output="sos")
    high, expected = (
        signal.sosfiltfilt(sos, x, axis=1)[:, 100:-100] for x in (merged, waveform)
    )
    assert largest_difference(high, expected) < 1e-3


def test_numpy_stays_numpy_in_its_precision_and_integers_are_filtered(waveform):
    single = waveform.astype(np.float32)
    got = filters.zero_phase_lowpass(single, RATE, 1.0)
    assert isinstance(got, np.ndarray) and got.dtype == np.float32
    counts = np.round(100 * waveform).astype(np.int32)
    got = filters.zero_phase_lowpass(counts, RATE, 1.0)
    expected = filters.zero_phase_lowpass(counts.astype(np.float64), RATE, 1.0)
    np.testing.assert_array_equal(got, expected)
    half = filters.zero_phase_lowpass(jnp.asarray(waveform, jnp.bfloat16), RATE, 1.0)
    assert half.dtype == jnp.float32


@pytest.mark.parametrize("corner", [0.0, 25.0, np.array([1.0, 30.0])])
def test_corner_outside_of_the_nyquist_range_raises(waveform, corner):
    bad = np.max(corner) if np.max(corner) else 0
    message = f"corner {bad:g} Hz is not between 0 and 25 Hz.*resample"
    for function in (filters.zero_phase_lowpass, filters.causal_lowpass):
        with pytest.raises(ValueError, match=message):
            function(waveform, RATE, corner)


def test_other_bad_input_raises(waveform):
    with pytest.raises(ValueError, match="band 0.1 to 30 Hz is not inside 0 to 25 Hz"):
        filters.zero_phase_bandpass(waveform, RATE, 0.1, 30.0)
    with pytest.raises(ValueError, match="order 0 is not a whole number"):
        filters.zero_phase_lowpass(waveform, RATE, 1.0, 0)
    with pytest.raises(ValueError, match="differ in length or components"):
        filters.complementary_merge(waveform, waveform[:, :600], RATE, 1.0)
    with pytest.raises(ValueError, match=r"\[700\] has no axis of components"):
        filters.zero_phase_lowpass(waveform[0, :, 0], RATE, 1.0)
