"""Trajectories beside those of the schedulers in diffusers, of one small network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.diffusion import process, samplers

REASON = "diffusers is not installed: make test-parity"
torch = pytest.importorskip("torch", reason=REASON)
diffusers = pytest.importorskip("diffusers", reason=REASON)
pytestmark = [
    pytest.mark.parity,
    # torch under numpy 2, inside diffusers.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

SHAPE = (3, 40, 2)
WEIGHTS = np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32)
COSINE = dict(
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
)


def network(noisy, time, library):
    """A smooth function of the noisy array and one time; the same in both worlds."""
    mixed = library.tanh(noisy @ library.asarray(WEIGHTS))
    return mixed * library.cos(3.0 * time) - 0.3 * noisy * library.sin(time)


def trajectory(sampler, start, noises=None):
    """All states after the start, [num_steps, *SHAPE]."""
    state = sampler.init(jax.random.key(0), SHAPE)._replace(sample=jnp.asarray(start))

    def predict(noisy, time):
        return network(noisy, time[:, None, None], jnp)

    def body(state, index):
        noise = None if noises is None else jnp.asarray(noises)[index]
        state = sampler.step(state, index, predict, noise=noise)
        return state, state.sample

    return jax.lax.scan(body, state, jnp.arange(sampler.num_steps))[1]


def peer_trajectory(scheduler, num_steps, start, time_of, **options):
    """The same of a diffusers scheduler; `options` are lists of an argument a step."""
    scheduler.set_timesteps(num_steps)
    sample, states = torch.from_numpy(start), []
    for index, told in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(sample, told)
        prediction = network(scaled, time_of(told), torch)
        given = {name: values[index] for name, values in options.items()}
        sample = scheduler.step(prediction, told, sample, **given).prev_sample
        states.append(sample.numpy())
    return np.stack(states)


def largest_difference(found, expected):
    """The largest over the states of |difference| / |expected|, in the 2-norm."""
    axes = tuple(range(1, expected.ndim))
    difference = np.sum((np.asarray(found) - expected) ** 2, axis=axes)
    return np.sqrt(np.max(difference / np.sum(expected**2, axis=axes)))


def draws(num_arrays):
    drawn = np.random.default_rng(1).normal(size=(num_arrays, *SHAPE))
    return drawn.astype(np.float32)


def index_over_1000(told):
    return told.float() / 1000


@pytest.mark.parametrize("num_steps", [10, 50])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_follows_diffusers(num_steps, eta):
    start, *noises = draws(1 + num_steps)
    scheduler = diffusers.DDIMScheduler(**COSINE, clip_sample=False)
    options = {"eta": [eta] * num_steps}
    if eta:
        options["variance_noise"] = [torch.from_numpy(noise) for noise in noises]
    expected = peer_trajectory(scheduler, num_steps, start, index_over_1000, **options)
    sampler = samplers.ddim(process.squared_cosine(), num_steps, eta=eta)
    found = trajectory(sampler, start, np.stack(noises) if eta else None)
    assert largest_difference(found, expected) <= 1e-5


@pytest.mark.parametrize("num_steps", [20, 33])
@pytest.mark.parametrize("stochastic", [False, True])
def test_dpm_solver_pp_2m_follows_diffusers(num_steps, stochastic):
    start, *noises = draws(1 + num_steps)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **COSINE, algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++"
    )
    options = {}
    if stochastic:
        options["variance_noise"] = [torch.from_numpy(noise) for noise in noises]
    expected = peer_trajectory(scheduler, num_steps, start, index_over_1000, **options)
    sampler = samplers.dpm_solver_pp(
        # diffusers leaves this much signal where the schedule leaves none.
        process.squared_cosine(terminal_floor=2.0**-24),
        num_steps,
        stochastic=stochastic,
    )
    found = trajectory(sampler, start, np.stack(noises) if stochastic else None)
    assert largest_difference(found, expected) <= 1e-5


@pytest.mark.parametrize("parameterization", ["edm", "velocity"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
def test_edm_with_the_2m_solver_follows_diffusers_on_karras_sigmas(
    parameterization, sigma_data
):
    num_steps = 20
    start = draws(1)[0] * 80.0
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(
        sigma_data=sigma_data,
        prediction_type="epsilon" if parameterization == "edm" else "v_prediction",
    )
    expected = peer_trajectory(scheduler, num_steps, start, lambda told: told)
    made = process.edm(sigma_data, parameterization=parameterization)
    sampler = samplers.make_sampler("dpm++2m", made, num_steps)
    np.testing.assert_allclose(sampler.times, scheduler.sigmas, rtol=2e-6)
    assert largest_difference(trajectory(sampler, start), expected) <= 1e-5


def test_edm_with_euler_steps_follows_diffusers():
    num_steps = 20
    start = draws(1)[0] * 80.0
    scheduler = diffusers.EDMEulerScheduler(sigma_data=1.0)
    expected = peer_trajectory(scheduler, num_steps, start, lambda told: told)
    sampler = samplers.ddim(process.edm(), num_steps)
    assert largest_difference(trajectory(sampler, start), expected) <= 1e-5


def test_noise_levels_are_those_of_diffusers():
    for zero_terminal_snr in (False, True):
        scheduler = diffusers.DDIMScheduler(
            **COSINE | {"rescale_betas_zero_snr": zero_terminal_snr}
        )
        made = process.squared_cosine(zero_terminal_snr=zero_terminal_snr)
        found = made.schedule.alpha(np.arange(1, 1001) / 1000) ** 2
        np.testing.assert_allclose(found, scheduler.alphas_cumprod, atol=1e-6)


def test_noisy_arrays_and_velocities_are_those_of_diffusers():
    scheduler = diffusers.DDPMScheduler(**COSINE)
    made = process.squared_cosine()
    clean, noise = draws(2)
    # At the first steps 1 - alpha^2 loses digits in their float32.
    steps = np.array([50, 500, 999])
    time = jnp.asarray((steps + 1) / 1000)
    arguments = *map(torch.from_numpy, (clean, noise)), torch.from_numpy(steps)
    for ours, theirs in ((made.noisy, "add_noise"), (made.target, "get_velocity")):
        expected = getattr(scheduler, theirs)(*arguments)
        found = ours(jnp.asarray(clean), jnp.asarray(noise), time)
        np.testing.assert_allclose(found, expected, atol=5e-6)
