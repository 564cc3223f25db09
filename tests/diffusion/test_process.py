import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.diffusion import process, schedules

MAKERS = {
    "cosine": process.cosine,
    "squared_cosine": process.squared_cosine,
    "with_signal_left": lambda **options: process.squared_cosine(
        zero_terminal_snr=False, **options
    ),
    "edm": process.edm,
    "edm_of_quiet_data": lambda **options: process.edm(sigma_data=0.5, **options),
}
# What raises is tested by itself.
VALID = [
    (maker, parameterization)
    for maker, parameterization in itertools.product(MAKERS, process.PARAMETERIZATIONS)
    if parameterization != "noise" or maker not in ("cosine", "squared_cosine")
]


def some_times(made, num_times=5):
    """Times of training, none so late or early that a conversion loses digits."""
    if made.schedule.variance_preserving:
        return jnp.linspace(0.1, 0.9, num_times)
    return jnp.linspace(0.2, 5.0, num_times)


@pytest.mark.parametrize("maker", ["cosine", "squared_cosine", "with_signal_left"])
def test_signal_and_noise_have_unit_power_at_every_time(maker):
    made = MAKERS[maker]()
    time = jnp.linspace(0.0, 1.0, 1001)
    power = made.alpha(time) ** 2 + made.sigma(time) ** 2
    np.testing.assert_allclose(power, 1.0, atol=3e-7)
    assert made.alpha(0.0) == 1.0 and made.sigma(0.0) == 0.0


@pytest.mark.parametrize("maker", ["cosine", "squared_cosine"])
def test_no_signal_is_left_at_time_one(maker):
    made = MAKERS[maker]()
    assert made.alpha(1.0) == 0.0 and made.sigma(1.0) == 1.0
    clean = jnp.full((2, 3), 1e6)
    noise = jnp.ones((2, 3))
    np.testing.assert_array_equal(made.noisy(clean, noise, jnp.ones(2)), noise)


def test_discrete_levels_follow_the_published_product():
    made = process.squared_cosine(zero_terminal_snr=False)
    level = 1.0
    for step in range(1, 1001):
        ends = [
            np.cos((k / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
            for k in (step - 1, step)
        ]
        level *= 1.0 - min(1.0 - ends[1] / ends[0], 0.999)
        if step in (1, 21, 501, 982, 1000):
            np.testing.assert_allclose(
                made.schedule.alpha(np.float64(step / 1000)) ** 2, level, rtol=1e-12
            )


def test_rescaling_keeps_the_first_level_and_removes_the_last():
    plain, rescaled = (
        schedules.squared_cosine(8, zero).alpha(np.arange(9) / 8)
        for zero in (False, True)
    )
    assert plain[-1] > 0.0 and rescaled[-1] == 0.0
    np.testing.assert_allclose(rescaled[:2], plain[:2], rtol=1e-15)
    # Shift and scale: differences stay proportional.
    steps = [np.diff(levels[1:]) for levels in (plain, rescaled)]
    np.testing.assert_allclose(steps[0] / steps[0][0], steps[1] / steps[1][0])


def test_a_floor_leaves_that_much_signal_at_the_end():
    made = process.squared_cosine(terminal_floor=2.0**-24)
    assert made.alpha(1.0) == 2.0**-12


@pytest.mark.parametrize(("maker", "parameterization"), VALID)
def test_a_perfect_prediction_gives_back_clean_and_noise(maker, parameterization):
    made = MAKERS[maker](parameterization=parameterization)
    time = some_times(made)
    clean, noise = jax.random.normal(jax.random.key(0), (2, len(time), 4, 3))
    noisy = made.noisy(clean, noise, time)
    prediction = made.target(clean, noise, time)
    np.testing.assert_allclose(
        made.clean_from(prediction, noisy, time), clean, atol=1e-5
    )
    np.testing.assert_allclose(
        made.noise_from(prediction, noisy, time), noise, atol=1e-5
    )


@pytest.mark.parametrize(("maker", "parameterization"), VALID)
def test_conversions_between_parameterizations_round_trip(maker, parameterization):
    made = MAKERS[maker](parameterization=parameterization)
    time = some_times(made)
    # Any prediction, not only those that fit the noisy array.
    prediction, noisy = jax.random.normal(jax.random.key(1), (2, len(time), 6))
    for other, name in VALID:
        if other != maker:
            continue
        there = made.converted(prediction, noisy, time, name)
        back = dataclasses.replace(made, parameterization=name).converted(
            there, noisy, time, parameterization
        )
        np.testing.assert_allclose(back, prediction, atol=3e-5)


def test_velocity_by_hand():
    made = process.cosine()
    clean, noise = jnp.array([[2.0]]), jnp.array([[-1.0]])
    time = jnp.array([1.0 / 3.0])  # 30 degrees
    root = 3**0.5 / 2
    np.testing.assert_allclose(made.target(clean, noise, time), -root - 1.0, rtol=1e-6)
    np.testing.assert_allclose(made.noisy(clean, noise, time), 2 * root - 0.5, 1e-6)


def test_preconditioning_is_that_of_karras():
    sigma_data, sigma = 0.5, 3.0
    made = process.edm(sigma_data=sigma_data)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 1, 4))
    noisy = made.noisy(clean, noise, sigma)
    total = (sigma**2 + sigma_data**2) ** 0.5
    c_skip, c_out = (sigma_data / total) ** 2, sigma * sigma_data / total
    scaled, network_time = made.network_inputs(noisy, sigma)
    np.testing.assert_allclose(scaled, noisy / total, rtol=1e-6)
    np.testing.assert_allclose(network_time, [np.log(sigma) / 4], rtol=1e-6)
    np.testing.assert_allclose(
        made.target(clean, noise, sigma), (clean - c_skip * noisy) / c_out, rtol=1e-4
    )
    prediction = jnp.arange(4.0)[None]
    np.testing.assert_allclose(
        made.clean_from(prediction, noisy, sigma),
        c_skip * noisy + c_out * prediction,
        rtol=1e-5,
    )


def test_the_target_has_unit_variance_at_any_sigma_for_data_of_that_deviation():
    made = process.edm(sigma_data=0.5)
    clean, noise = jax.random.normal(jax.random.key(0), (2, 3, 20_000))
    target = made.target(0.5 * clean, noise, jnp.array([0.002, 0.5, 80.0]))
    np.testing.assert_allclose(jnp.std(target, axis=1), 1.0, atol=0.02)


def test_noise_of_a_clean_prediction_is_zero_where_there_is_none():
    made = process.cosine(parameterization="clean")
    noisy = jnp.ones((2, 3))
    found = made.noise_from(noisy + 1.0, noisy, jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(found, [[0.0] * 3, [1.0] * 3])


@pytest.mark.parametrize("maker", ["cosine", "squared_cosine"])
def test_noise_prediction_without_signal_at_the_end_is_refused(maker):
    with pytest.raises(ValueError, match="no signal is left; predict the velocity"):
        MAKERS[maker](parameterization="noise")


@pytest.mark.parametrize(
    ("parameterization", "expected"),
    [
        ("velocity", lambda snr: min(snr, 5) / (snr + 1)),
        ("edm", lambda snr: min(snr, 5) / (snr + 1)),
        ("noise", lambda snr: min(snr, 5) / snr),
        ("clean", lambda snr: min(snr, 5)),
    ],
)
def test_min_snr_weights_cut_off_at_gamma(parameterization, expected):
    made = MAKERS["with_signal_left"](
        parameterization=parameterization, loss_weight="min_snr"
    )
    time = jnp.array([0.05, 0.2, 0.3, 0.5, 0.9])
    snr = (made.alpha(time) / made.sigma(time)) ** 2
    assert snr.min() < 5 < snr.max()
    np.testing.assert_allclose(
        made.weight(time), [expected(ratio) for ratio in np.float64(snr)], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("parameterization", "ends"),
    [("velocity", [0.0, 0.0]), ("clean", [5.0, 0.0])],
)
def test_min_snr_weights_are_finite_at_both_ends(parameterization, ends):
    made = process.cosine(parameterization=parameterization, loss_weight="min_snr")
    np.testing.assert_array_equal(made.weight(jnp.array([0.0, 1.0])), ends)


def test_min_snr_weighs_the_same_clean_error_the_same_in_every_parameterization():
    clean, noise, wrong = jax.random.normal(jax.random.key(0), (3, 4, 5))
    losses = []
    for name in process.PARAMETERIZATIONS:
        made = process.edm(0.5, parameterization=name, loss_weight="min_snr")
        time = some_times(made, 4)
        as_clean = dataclasses.replace(made, parameterization="clean")
        noisy = made.noisy(clean, noise, time)
        prediction = as_clean.converted(wrong, noisy, time, name)
        error = jnp.square(prediction - made.target(clean, noise, time))
        losses.append(made.weight(time) * jnp.mean(error, axis=1))
    for loss in losses[1:]:
        np.testing.assert_allclose(loss, losses[0], rtol=1e-3)


def test_training_times_are_uniform_discrete_or_log_normal():
    rng, shape = jax.random.key(0), (20_000,)
    uniform = process.cosine().sample_time(rng, shape)
    assert 0.0 <= uniform.min() and uniform.max() < 1.0
    np.testing.assert_allclose(jnp.mean(uniform), 0.5, atol=0.01)
    steps = process.squared_cosine(num_steps=4).sample_time(rng, shape) * 4
    values, counts = np.unique(steps, return_counts=True)
    np.testing.assert_array_equal(values, [1, 2, 3, 4])
    np.testing.assert_allclose(counts / 20_000, 0.25, atol=0.02)
    log_sigma = jnp.log(process.edm().sample_time(rng, shape))
    np.testing.assert_allclose(jnp.mean(log_sigma), -1.2, atol=0.03)
    np.testing.assert_allclose(jnp.std(log_sigma), 1.2, atol=0.03)


def test_the_network_is_told_the_time_the_index_over_1000_or_a_quarter_log_sigma():
    noisy = jnp.zeros((2, 3))
    for made, time, told in (
        (process.cosine(), [0.25, 1.0], [0.25, 1.0]),
        (process.squared_cosine(), [0.001, 1.0], [0.0, 0.999]),
        (process.edm(), [1.0, np.exp(2.0)], [0.0, 0.5]),
    ):
        found = made.network_inputs(noisy, jnp.array(time))[1]
        np.testing.assert_allclose(found, told, atol=1e-6)
    one_time = process.cosine().network_inputs(noisy, 0.25)[1]
    np.testing.assert_array_equal(one_time, [0.25, 0.25])


@pytest.mark.parametrize("trailing", [(), (4, 3)])
def test_times_of_a_batch_meet_their_own_examples_under_jit(trailing):
    def together(made, clean, noise, time):
        noisy = made.noisy(clean, noise, time)
        target = made.target(clean, noise, time)
        estimate = made.clean_from(target, noisy, time)
        scaled, _ = made.network_inputs(noisy, time)
        return noisy, target, estimate, made.noise_from(target, noisy, time), scaled

    @jax.jit
    def all_processes(clean, noise):
        found = []
        for maker, parameterization in VALID:
            made = MAKERS[maker](parameterization=parameterization)
            time = some_times(made, 3)
            batch = together(made, clean, noise, time)
            alone = [
                together(made, clean[i : i + 1], noise[i : i + 1], time[i])
                for i in range(3)
            ]
            found.append((batch, jax.tree.map(lambda *x: jnp.concatenate(x), *alone)))
        return found

    clean, noise = jax.random.normal(jax.random.key(0), (2, 3, *trailing))
    for batch, alone in all_processes(clean, noise):
        for in_batch, one_by_one in zip(batch, alone, strict=True):
            assert in_batch.shape == (3, *trailing)
            np.testing.assert_allclose(in_batch, one_by_one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("maker", ["cosine", "squared_cosine", "edm"])
def test_narrow_arrays_keep_their_dtype_and_coefficients_stay_wide(maker):
    made = MAKERS[maker]()
    time = some_times(made)
    wide = jax.random.normal(jax.random.key(0), (2, len(time), 4))
    clean, noise = narrow = wide.astype(jnp.bfloat16)
    noisy = made.noisy(clean, noise, time)
    target = made.target(clean, noise, time)
    assert noisy.dtype == target.dtype == jnp.bfloat16
    assert made.network_inputs(noisy, time)[0].dtype == jnp.bfloat16
    # One rounding of the result, not one of each coefficient and product.
    expected = made.noisy(*narrow.astype(jnp.float32), time)
    np.testing.assert_array_equal(noisy, expected.astype(jnp.bfloat16))
    assert made.clean_from(target, noisy, time).dtype == jnp.float32


def test_a_process_is_hashable_and_equal_to_one_made_alike():
    made = [process.squared_cosine(num_steps=10, gamma=3.0) for _ in range(2)]
    assert made[0] == made[1] and hash(made[0]) == hash(made[1])
    assert made[0] != process.squared_cosine(num_steps=11, gamma=3.0)


@pytest.mark.parametrize(
    ("maker", "dtype"),
    [
        ("cosine", "float32"),
        ("cosine", "bfloat16"),
        ("squared_cosine", "float32"),
        ("edm", "bfloat16"),
    ],
)
def test_the_loss_of_a_silent_network_is_the_power_of_the_target(maker, dtype):
    made = MAKERS[maker]()
    clean = jax.random.normal(jax.random.key(0), (6, 500, 3)).astype(dtype)
    seen = []

    def silent(noisy, time):
        seen.append((noisy.dtype, noisy.shape, time.shape))
        return jnp.zeros_like(noisy)

    @jax.jit
    def loss(clean, rng):
        return process.diffusion_loss(made, silent, clean, rng)

    found, parts = loss(clean, jax.random.key(1))
    assert seen[0] == (jnp.dtype(dtype), (6, 500, 3), (6,))
    assert found.dtype == jnp.float32
    # Clean data and noise of unit variance: so are velocity and Karras' target.
    np.testing.assert_allclose(found, 1.0, atol=0.15)
    recovered = made.noise_from(jnp.zeros(clean.shape), parts["noisy"], parts["time"])
    again = made.noisy(parts["clean"], recovered, parts["time"])
    np.testing.assert_allclose(again, parts["noisy"], atol=1e-4)


@pytest.mark.parametrize(("maker", "parameterization"), VALID)
def test_the_loss_vanishes_for_a_network_that_knows_the_data(maker, parameterization):
    made = MAKERS[maker](parameterization=parameterization, loss_weight="min_snr")
    clean = jax.random.normal(jax.random.key(0), (4, 5)) * made.schedule.data_std
    time_rng, noise_rng = jax.random.split(jax.random.key(1))
    time = made.sample_time(time_rng, (4,))
    noise = jax.random.normal(noise_rng, clean.shape)
    loss, parts = process.diffusion_loss(
        made,
        lambda noisy, told: made.target(clean, noise, time),
        clean,
        jax.random.key(1),
    )
    np.testing.assert_allclose(loss, 0.0, atol=1e-12)
    np.testing.assert_array_equal(parts["time"], time)


def test_weights_scale_the_loss_of_their_example_alone():
    made = process.cosine()
    clean = jax.random.normal(jax.random.key(0), (3, 4))
    arguments = made, lambda noisy, time: noisy, clean, jax.random.key(1)
    plain, _ = process.diffusion_loss(*arguments)
    weighted, _ = process.diffusion_loss(*arguments, weights=jnp.array([1.0, 0.0, 3.0]))
    np.testing.assert_allclose(weighted, plain * np.array([1.0, 0.0, 3.0]), rtol=1e-6)


def test_a_prediction_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        process.diffusion_loss(
            process.cosine(),
            lambda noisy, time: noisy[..., :1],
            jnp.zeros((2, 4, 3)),
            jax.random.key(0),
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: process.cosine(parameterization="v"), "unknown parameterization 'v'"),
        (lambda: process.cosine(loss_weight="snr"), "unknown loss_weight 'snr'.*None"),
        (lambda: process.cosine(gamma=0.0), "gamma 0.0 must be above 0"),
        (lambda: process.squared_cosine(num_steps=1), "num_steps 1 .* 2 or more"),
        (lambda: process.squared_cosine(terminal_floor=1.0), "terminal_floor 1.0"),
        (lambda: process.edm(sigma_min=2.0, sigma_max=1.0), "sigma_min 2.0 and sigma"),
        (lambda: process.edm(sigma_data=0.0), "sigma_data 0.0 and p_std"),
        (
            lambda: process.cosine().noisy(jnp.ones((2, 3)), jnp.ones((2, 3)), [0.5]),
            r"time has shape \(1,\) beside .* \(2, 3\); give one number or \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
