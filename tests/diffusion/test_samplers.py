"""Samplers against closed forms: data N(0, s^2), whose best predictions are known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.diffusion import process, samplers

MADE = {
    "cosine": process.cosine(),
    "squared_cosine": process.squared_cosine(),
    "edm": process.edm(),
}


def exact(made, std):
    """The best prediction, that of E[clean | noisy], for data N(0, std^2)."""

    def predict(scaled, network_time):
        if made.schedule.variance_preserving:
            time = network_time + (1.0 / 1000 if made == MADE["squared_cosine"] else 0)
            noisy = scaled
        else:
            time = jnp.exp(4.0 * network_time)
            noisy = scaled * jnp.sqrt(1.0 + time[:, None] ** 2)
        alpha, sigma = made.alpha(time)[:, None], made.sigma(time)[:, None]
        variance = alpha**2 * std**2 + sigma**2
        clean, noise = alpha * std**2 / variance * noisy, sigma / variance * noisy
        return made.target(clean, noise, time)

    return predict


def gain(sampler, made, std):
    """What a deterministic sampler multiplies its first noise by."""

    @jax.jit
    def run(rng):
        start = sampler.init(rng, (1, 1)).sample
        data = samplers.sample(sampler, exact(made, std), rng, (1, 1))
        return (data / start)[0, 0]

    return float(run(jax.random.key(0)))


@pytest.mark.parametrize("num_steps", [1, 25, 400])
def test_ddim_shrinks_a_unit_gaussian_by_its_closed_form(num_steps):
    sampler = samplers.ddim(MADE["cosine"], num_steps)
    found = abs(gain(sampler, MADE["cosine"], 1.0))
    expected = math.cos(math.pi / 2 / num_steps) ** num_steps
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_ddim_in_25_steps_keeps_95_percent_and_converges_to_all():
    losses = [
        1.0 - gain(samplers.ddim(MADE["cosine"], steps), MADE["cosine"], 1.0)
        for steps in (25, 50, 1000)
    ]
    np.testing.assert_allclose(losses[0], 1.0 - 0.952, atol=5e-4)
    np.testing.assert_allclose(losses[0] / losses[1], 2.0, atol=0.1)
    np.testing.assert_allclose(losses[2], math.pi**2 / 8 / 1000, rtol=0.03)


def test_heun_loses_only_what_its_last_step_does():
    # The velocity of a unit Gaussian is 0: steps turn by nothing, the last projects.
    sampler = samplers.heun(MADE["cosine"], 25)
    found = gain(sampler, MADE["cosine"], 1.0)
    np.testing.assert_allclose(found, math.cos(math.pi / 50), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "maker", "falls"),
    [
        ("ddim", "cosine", (1.9, 2.1)),
        # Equal steps of time are ever longer ones of lambda towards both ends, for
        # whatever N: the error falls like log(N) / N^2.
        ("dpm++2m", "cosine", (2.8, 4.1)),
        ("heun", "cosine", (3.5, 4.5)),
        ("ddim", "edm", (1.9, 2.2)),
        ("dpm++2m", "edm", (3.5, 4.5)),
        ("heun", "edm", (3.5, 5.0)),
    ],
)
def test_errors_fall_with_the_order_of_the_method(name, maker, falls):
    made, std = MADE[maker], 0.5
    # The exact flow maps the deviation of the start to that of the data.
    start, most = (1.0, 160) if maker == "cosine" else ((80.0**2 + std**2) ** 0.5, 80)
    errors = [
        abs(gain(samplers.make_sampler(name, made, steps), made, std) * start - std)
        for steps in (most // 2, most)
    ]
    assert errors[0] < 0.05
    assert falls[0] < errors[0] / errors[1] < falls[1]


@pytest.mark.parametrize("maker", MADE)
@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_one_two_or_a_thousand_steps_give_finite_data(name, maker):
    made = MADE[maker]
    predict, rng = exact(made, 1.0), jax.random.key(0)
    for num_steps in (1, 2):
        sampler = samplers.make_sampler(name, made, num_steps)
        state = sampler.init(rng, (64, 8))
        for index in range(num_steps):
            state = sampler.step(state, index, predict)
        assert bool(jnp.isfinite(sampler.result(state)).all())
    sampler = samplers.make_sampler(name, made, 1000)
    assert sampler.num_steps == 1000 and sampler.times[-1] == 0.0
    data = jax.jit(lambda rng: samplers.sample(sampler, predict, rng, (64, 8)))(rng)
    np.testing.assert_allclose(jnp.std(data), 1.0, atol=0.08)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++2m", "sde"])
@pytest.mark.parametrize("maker", [*MADE, "with_a_floor"])
def test_steps_reach_the_levels_of_the_process_for_any_number_of_them(
    name, maker, monkeypatch
):
    # If the estimate is right and stays, a step must turn alpha clean + sigma noise
    # into alpha' clean + sigma' noise'; whence two equations for its factors.
    made = MADE.get(maker) or process.squared_cosine(terminal_floor=2.0**-24)
    monkeypatch.setattr(samplers, "_linear", lambda _, *found, stochastic: found)
    for num_steps in range(1, 1001):
        if name == "sde":
            grid, table = samplers.dpm_solver_pp(made, num_steps, stochastic=True)
        else:
            grid, table = samplers.make_sampler(name, made, num_steps)
        alpha, sigma, alpha_next, sigma_next = grid.levels
        of_sample, of_clean, of_previous, of_noise = table.T
        signal = of_sample * alpha + of_clean + of_previous
        variance = (of_sample * sigma) ** 2 + of_noise**2
        np.testing.assert_allclose(signal, alpha_next, rtol=1e-12)
        np.testing.assert_allclose(variance, sigma_next**2, rtol=1e-10)
        assert of_previous[0] == 0.0


@pytest.mark.parametrize("stochastic", [False, True])
def test_two_steps_of_2m_are_first_order_where_no_signal_or_no_noise_is(stochastic):
    made = MADE["cosine"]
    pair = [
        samplers.dpm_solver_pp(made, 2, order=order, stochastic=stochastic)
        for order in (1, 2)
    ]
    first, second = (
        samplers.sample(s, exact(made, 0.5), jax.random.key(0), (4, 3)) for s in pair
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpm++2m"])
@pytest.mark.parametrize("maker", MADE)
def test_every_step_keeps_the_variance_of_the_noise_around_known_data(name, maker):
    # Data that are one known array: noisy - alpha clean must be sigma * N(0, 1).
    made = MADE[maker]
    known, steps, shape = 0.7, 6, (4, 20_000)
    sampler = samplers.make_sampler(name, made, steps)
    rng = jax.random.key(0)
    state = sampler.init(rng, shape)
    start = made.noisy(
        jnp.full(shape, known), jax.random.normal(rng, shape), sampler.times[0]
    )
    state = state._replace(sample=start)

    def predict(scaled, network_time):
        return jnp.zeros_like(scaled)

    for index in range(steps):
        state = sampler.step(
            state, index, predict, on_clean=lambda clean, time: 0 * clean + known
        )
        time = sampler.times[index + 1]
        alpha, sigma = made.alpha(time), made.sigma(time)
        np.testing.assert_allclose(
            jnp.std(state.sample - alpha * known), sigma, rtol=0.01, atol=1e-6
        )
        np.testing.assert_allclose(
            jnp.mean(state.sample), alpha * known, atol=0.02 * float(sigma) + 1e-6
        )


@pytest.mark.parametrize("stochastic", ["ddpm", "sde"])
def test_stochastic_samplers_keep_the_variance_of_gaussian_data(stochastic):
    made, std = MADE["cosine"], 0.5
    deviations = []
    for steps in (25, 200):
        sampler = (
            samplers.ddim(made, steps, eta=1.0)
            if stochastic == "ddpm"
            else samplers.dpm_solver_pp(made, steps, stochastic=True)
        )
        data = samplers.sample(sampler, exact(made, std), jax.random.key(0), (8, 4000))
        deviations.append(abs(float(jnp.std(data)) / std - 1.0))
    assert deviations[1] < 0.03
    assert deviations[1] < deviations[0] or deviations[0] < 0.01


def test_a_network_that_knows_the_data_gets_them_back():
    made = MADE["cosine"]
    known = jax.random.normal(jax.random.key(3), (2, 5, 3))

    def predict(noisy, time):
        angle = jnp.pi / 2 * time[:, None, None]
        noise = (noisy - jnp.cos(angle) * known) / jnp.sin(angle)
        return jnp.cos(angle) * noise - jnp.sin(angle) * known

    for name in samplers.SAMPLERS:
        sampler = samplers.make_sampler(name, made, 3)
        data = samplers.sample(sampler, predict, jax.random.key(0), known.shape)
        np.testing.assert_allclose(data, known, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "maker"),
    [("ddim", "cosine"), ("ddpm", "edm"), ("dpm++2m", "cosine"), ("heun", "edm")],
)
def test_a_loop_on_the_host_gives_what_the_scan_gives(name, maker):
    made = MADE[maker]
    sampler = samplers.make_sampler(name, made, 5)
    predict, rng, shape = exact(made, 0.5), jax.random.key(0), (2, 4)
    expected = jax.jit(lambda rng: samplers.sample(sampler, predict, rng, shape))(rng)
    for index_of in (int, jnp.asarray):
        state = sampler.init(rng, shape)
        for index in range(sampler.num_steps):
            state = sampler.step(state, index_of(index), predict)
        np.testing.assert_allclose(
            sampler.result(state), expected, rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize("name", ["ddpm", "heun"])
def test_the_same_key_gives_the_same_data_and_another_one_others(name):
    sampler = samplers.make_sampler(name, MADE["cosine"], 4)
    draw = functools.partial(
        samplers.sample, sampler, exact(MADE["cosine"], 1.0), shape=(2, 3)
    )
    first, again, other = (draw(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(jnp.abs(first - other).min()) > 0


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_corrected_estimates_are_those_that_sampling_goes_on_with(name):
    sampler = samplers.make_sampler(name, MADE["cosine"], 6)

    def on_clean(clean, time):
        assert time.shape == clean.shape[:1]
        return clean.at[:, 0].set(2.5)

    arguments = sampler, exact(MADE["cosine"], 1.0), jax.random.key(0), (3, 4)
    plain = samplers.sample(*arguments)
    corrected = samplers.sample(*arguments, on_clean=on_clean)
    np.testing.assert_array_equal(corrected[:, 0], 2.5)
    np.testing.assert_array_equal(corrected[:, 1:], plain[:, 1:])


@pytest.mark.parametrize(
    ("name", "maker"),
    [("ddim", "cosine"), ("ddpm", "edm"), ("dpm++2m", "cosine"), ("heun", "edm")],
)
def test_narrow_samples_stay_narrow_and_near_the_wide_ones(name, maker):
    made = MADE[maker]
    sampler = samplers.make_sampler(name, made, 8)
    seen = []

    def predict(noisy, time):
        seen.append((noisy.dtype, time.dtype))
        return exact(made, 0.5)(noisy.astype(jnp.float32), time).astype(noisy.dtype)

    arguments = jax.random.key(0), (4, 3)
    narrow = samplers.sample(sampler, predict, *arguments, dtype=jnp.bfloat16)
    assert narrow.dtype == jnp.bfloat16
    assert set(seen) == {(jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32))}
    wide = samplers.sample(sampler, exact(made, 0.5), *arguments)
    np.testing.assert_allclose(np.float32(narrow), wide, atol=0.05)


def test_given_noise_stands_in_for_the_draw_of_a_stochastic_step():
    made = MADE["cosine"]
    sampler = samplers.make_sampler("ddpm", made, 4)
    state = sampler.init(jax.random.key(0), (2, 3))
    predict = exact(made, 1.0)
    noise = jax.random.normal(jax.random.fold_in(state.rng, 1), (2, 3))
    drawn = sampler.step(state, 1, predict)
    given = sampler.step(state, 1, predict, noise=noise)
    np.testing.assert_array_equal(drawn.sample, given.sample)
    other = sampler.step(state, 1, predict, noise=-noise)
    assert float(jnp.abs(other.sample - given.sample).max()) > 0.1
    for name in ("ddim", "heun"):
        with pytest.raises(ValueError, match="noise was given to a step that draws no"):
            samplers.make_sampler(name, made, 4).step(state, 1, predict, noise=noise)


@pytest.mark.parametrize(
    "make",
    [
        lambda made: samplers.ddim(made, 1, eta=1.0),
        lambda made: samplers.make_sampler("dpm++2m", made, 1, stochastic=True),
    ],
    ids=["ddpm", "sde"],
)
def test_a_stochastic_sampler_of_one_step_takes_the_noise_that_it_weighs_by_0(make):
    made = MADE["cosine"]
    sampler = make(made)
    state = sampler.init(jax.random.key(0), (2, 3))
    drawn, given = (
        sampler.step(state, 0, exact(made, 1.0), noise=noise)
        for noise in (None, jnp.ones((2, 3)))
    )
    np.testing.assert_array_equal(drawn.sample, given.sample)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("index", [3, 7, -1, np.int32(3)])
def test_a_step_beyond_the_last_one_is_refused(name, index):
    made = MADE["cosine"]
    sampler = samplers.make_sampler(name, made, 3)
    state = sampler.init(jax.random.key(0), (2, 3))
    with pytest.raises(ValueError, match=f"step {index} of a sampler of 3: .* 0 to 2"):
        sampler.step(state, index, exact(made, 1.0))


def test_times_of_the_callers_own_replace_those_of_the_process():
    made = MADE["squared_cosine"]
    times = np.array([981, 481, 1]) / 1000
    told = []

    def predict(noisy, time):
        told.append(float(time[0]))
        return jnp.zeros_like(noisy)

    sampler = samplers.ddim(made, 2, times=times)
    state = sampler.init(jax.random.key(0), (1, 2))
    for index in range(2):
        state = sampler.step(state, index, predict)
    np.testing.assert_allclose(told, [0.980, 0.480], atol=1e-6)
    heun = samplers.heun(made, 2, times=times)
    assert bool(jnp.isfinite(heun.step(state, 1, predict).sample).all())


def test_heun_evaluates_twice_but_at_the_last_step():
    calls = []

    def predict(noisy, time):
        calls.append(float(time[0]))
        return jnp.zeros_like(noisy)

    sampler = samplers.heun(MADE["cosine"], 4)
    state = sampler.init(jax.random.key(0), (1, 2))
    for index in range(4):
        state = sampler.step(state, index, predict)
    np.testing.assert_allclose(calls, [1, 0.75, 0.75, 0.5, 0.5, 0.25, 0.25], rtol=1e-6)


def test_karras_times_are_equal_steps_of_the_seventh_root():
    times = np.array(samplers.heun(MADE["edm"], 18).times)
    assert times[-1] == 0.0
    np.testing.assert_allclose(times[[0, -2]], [80.0, 0.002], rtol=1e-12)
    np.testing.assert_allclose(np.diff(times[:-1] ** (1 / 7), n=2), 0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.ddim(MADE["cosine"], 0), "num_steps 0 must be 1 or more"),
        (lambda: samplers.heun(MADE["edm"], -1), "num_steps -1 must be 1 or more"),
        (
            lambda: samplers.ddim(MADE["squared_cosine"], 1001),
            "num_steps 1001 is more than the 1000 steps",
        ),
        (lambda: samplers.ddim(MADE["cosine"], 5, eta=1.5), r"eta 1.5 must be in"),
        (lambda: samplers.dpm_solver_pp(MADE["cosine"], 5, order=3), "order 3 of DPM"),
        (lambda: samplers.heun(MADE["cosine"], 5, rho=7), "rho 7 spaces the sigmas"),
        (lambda: samplers.heun(MADE["edm"], 5, rho=0), "rho 0 must be above 0"),
        (
            lambda: samplers.ddim(MADE["cosine"], 2, times=[1, 0]),
            "num_steps \\+ 1 ends",
        ),
        (lambda: samplers.ddim(MADE["cosine"], 1, times=[0, 1]), "must fall, and the"),
        (
            lambda: samplers.ddim(MADE["squared_cosine"], 2, times=[1, 0.9999, 0]),
            "a discrete process tells times one step apart",
        ),
        (
            lambda: samplers.make_sampler("euler", MADE["cosine"], 5),
            "unknown sampler 'euler'; choose one of ddim, ddpm",
        ),
        (
            lambda: samplers.make_sampler("ddpm", MADE["cosine"], 5, eta=0.0),
            "sampler 'ddpm' has no option 'eta'; it takes times",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
