import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.losses import reconstruction


class Compiled:
    """The functions of the module, compiled as wholes and not one operation each."""

    def __getattr__(self, name):
        static = ("kind",) if name == "reconstruction_target" else ("size",)
        function = getattr(reconstruction, name)
        if name in ("patches", "normalized_patches", "reconstruction_target"):
            return jax.jit(function, static_argnames=static)
        return jax.jit(function)


r = Compiled()
WAVEFORM = jax.random.normal(jax.random.key(0), (2, 24, 3))


def mask_of(*spans, frames=6, rows=2):
    mask = np.zeros((rows, frames), bool)
    for first, last in spans:
        mask[:, first:last] = True
    return jnp.asarray(mask)


def test_a_patch_holds_its_own_samples_in_order():
    found = r.patches(WAVEFORM)
    assert found.shape == (2, 6, 12)
    np.testing.assert_array_equal(
        found[1, 2], np.asarray(WAVEFORM)[1, 8:12].reshape(-1)
    )
    with pytest.raises(ValueError, match="22 samples .* frames of 4; try 20"):
        r.patches(WAVEFORM[:, :22])
    with pytest.raises(ValueError, match="3 samples .* try 4"):
        r.patches(WAVEFORM[:, :3])


def test_patches_have_mean_zero_and_a_spread_below_one_that_silence_lowers():
    found = r.normalized_patches(1e3 * WAVEFORM + 7.0)
    np.testing.assert_allclose(found.mean(axis=-1), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=-1), 1.0, atol=1e-4)
    # With variance v: v / (v + 0.01).
    one = jnp.tile(jnp.array([0.1, -0.1]), 6).reshape(1, 4, 3)
    np.testing.assert_allclose(jnp.square(r.normalized_patches(one)).mean(), 0.5)
    assert not r.normalized_patches(jnp.ones((1, 4, 3))).any()


def test_the_loss_is_the_sum_of_mean_squares_of_hidden_frames():
    target = jnp.zeros((2, 3, 2))
    predicted = jnp.array([[[1, 3], [2, 2], [9, 9]], [[9, 9], [9, 9], [9, 9.0]]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    total, count = r.reconstruction_loss(predicted, target, mask)
    np.testing.assert_array_equal(total, [5.0 + 4.0, 0.0])
    np.testing.assert_array_equal(count, [2, 0])
    slope = jax.grad(lambda p: r.reconstruction_loss(p, target, mask)[0].sum())
    np.testing.assert_array_equal(slope(predicted)[~mask], 0.0)


def test_arrays_that_would_broadcast_are_refused():
    with pytest.raises(AssertionError):
        r.reconstruction_loss(WAVEFORM, WAVEFORM[:, :, :1], mask_of((0, 2)))
    with pytest.raises(AssertionError):
        r.reconstruction_loss(WAVEFORM, WAVEFORM, mask_of((0, 2)))


def test_the_last_frame_of_each_span_is_not_scored_but_at_the_end_of_the_window():
    mask = mask_of((0, 2), (3, 4), (5, 8), frames=8, rows=1)
    np.testing.assert_array_equal(
        r.scored_frames(mask)[0], [True, False, False, False, False, True, True, True]
    )


def test_predicting_the_mean_costs_the_variance_of_the_unit():
    mask = mask_of((1, 3))
    total, count = r.mean_baseline(WAVEFORM, mask)
    variance = np.asarray(WAVEFORM)[:, 4:12].reshape(2, 2, 12).var(axis=-1)
    np.testing.assert_allclose(
        total, (variance / (variance + 0.01)).sum(axis=-1), rtol=1e-5
    )
    np.testing.assert_array_equal(count, 2)


def test_a_line_across_a_span_equals_interpolation_of_each_component():
    mask = jnp.array([[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1]], bool)
    hidden = np.repeat(mask, 4, axis=1)
    found = r.interpolated(WAVEFORM, hidden)
    place = np.arange(24)
    for row in range(2):
        for component in range(3):
            seen = ~hidden[row]
            wave = np.asarray(WAVEFORM)[row, :, component]
            expected = np.interp(place, place[seen], wave[seen])
            np.testing.assert_allclose(found[row, :, component], expected, atol=1e-6)
    assert not r.interpolated(WAVEFORM, np.ones((2, 24), bool)).any()


def test_a_straight_waveform_is_interpolated_without_error_and_a_sine_is_not():
    time = jnp.arange(24.0)[None, :, None]
    straight = time * jnp.array([1.0, -0.5, 0.2]) + 3.0
    mask = mask_of((2, 4), rows=1)
    total, count = r.interpolation_baseline(straight, mask)
    assert total[0] < 1e-6 and count[0] == 2
    curved = jnp.sin(time) * jnp.ones(3)
    worse, _ = r.interpolation_baseline(curved, mask)
    line, _ = r.mean_baseline(curved, mask)
    assert worse[0] > line[0] > 0.9
    _, count = r.interpolation_baseline(curved, mask, r.scored_frames(mask))
    assert count[0] == 1


def test_what_is_hidden_enters_no_interpolation():
    mask = mask_of((2, 4))
    hidden = jnp.repeat(mask, 4, axis=1)
    changed = WAVEFORM + 5.0 * hidden[..., None]
    np.testing.assert_array_equal(
        r.interpolated(changed, hidden), r.interpolated(WAVEFORM, hidden)
    )


def test_targets_are_patches_or_tokens_with_or_without_a_gradient():
    tokens = jnp.ones((2, 6, 4))
    raw = r.reconstruction_target("raw", WAVEFORM, tokens)
    np.testing.assert_array_equal(raw, r.normalized_patches(WAVEFORM))

    def slope(kind):
        return jax.grad(lambda t: r.reconstruction_target(kind, WAVEFORM, t).sum())

    assert slope("tokens")(tokens).all()
    assert not slope("tokens_sg")(tokens).any()
    with pytest.raises(ValueError, match="unknown target 'mel'; choose one of raw"):
        r.reconstruction_target("mel", WAVEFORM, tokens)


def test_the_spread_of_tokens_is_the_mean_standard_deviation_of_their_columns():
    tokens = jnp.array([[[1.0, 5.0], [3.0, 5.0]], [[1.0, 9.0], [3.0, 9.0]]])
    assert r.token_spread(tokens) == pytest.approx(1.5)
    assert r.token_spread(jnp.ones((2, 3, 4))) == 0.0
