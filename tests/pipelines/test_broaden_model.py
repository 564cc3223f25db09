import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.diffusion import process, samplers
from jaxmodels.metrics.ground_motion import lf_snr
from jaxmodels.models.signal_dit import Context
from jaxmodels.pipelines import broaden_model, broaden_windows
from jaxmodels.pipelines.broaden_model import Broadener
from jaxmodels.signal import filters
from jaxmodels.train import model_file, packaged
from jaxmodels.train.errors import ConfigError
from tests.pipelines import broadening_runs as runs

RATE, SAMPLES = runs.RATE, runs.SAMPLES


class Network:
    """Stands in for `SignalDiT`; `clean` says what it takes the clean windows for."""

    num_samples, channels = SAMPLES, 3

    def __init__(self, clean, ratio=0.0, log_variance=-60.0):
        self.clean, self.amplitude = clean, jnp.array([ratio, log_variance])
        self.encoded = []

    def apply(self, variables, *args, method, **options):
        return method(*args, **options)

    def encode(self, condition, scalars, keep=None):
        jax.debug.callback(lambda x: self.encoded.append(x.shape), condition)
        amplitude = jnp.broadcast_to(self.amplitude, (len(condition), 2))
        keys = condition[None]
        return Context(condition, condition, keys, keys, amplitude)

    def decode(self, noisy, time, scalars, context):
        own = process.cosine()
        clean = self.clean(noisy, own.alpha(time)[:, None, None], context.tokens)
        return (own.alpha(time)[:, None, None] * noisy - clean) / own.sigma(time)[
            :, None, None
        ]


def stubbed(clean, about=runs.ABOUT, **options):
    own = runs.preprocessing()
    return Broadener(Network(clean, **options), {}, own, process.cosine(), about, "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, variables = runs.network()
    described = runs.preprocessing().to_json() | runs.ABOUT
    path = tmp_path_factory.mktemp("packaged")
    packaged.write(path, {"model": model}, {"model": variables}, described, "card")
    return path


@pytest.fixture(scope="module")
def broadener(folder):
    return broaden_model.load(folder)


def low_passed(seconds=6.0, **options):
    own = runs.preprocessing()
    prepared = own.prepare(runs.ground_motion(seconds, **options))
    return np.asarray(own.low_pass(prepared, 1.0))


def test_windows_cover_the_record_and_overlap_by_half_or_more():
    assert broaden_windows.starts(80, 80).tolist() == [0]
    assert broaden_windows.starts(81, 80).tolist() == [0, 1]
    for length in (120, 121, 399):
        first = broaden_windows.starts(length, 80)
        assert first[0] == 0 and first[-1] == length - 80
        assert np.all(np.diff(first) <= 40) and np.all(np.diff(first) > 0)


def test_a_record_of_one_window_is_what_the_sampler_alone_draws(broadener):
    x = low_passed(4.0)
    got = broadener.sample(x, seed=3, num_samples=1, num_steps=4, sampler="ddpm")
    own, model = broadener.preprocessing, broadener.model
    size = own.size(x[None])
    scalars = jnp.array([[np.log10(size[0]), 0.0]], jnp.float32)
    condition = jnp.asarray(x[None] / size[0], jnp.float32)
    run = jax.jit(model.apply, static_argnames="method")
    context = run(broadener.variables, condition, scalars, method=model.encode)

    def predict(noisy, time):
        return model.apply(
            broadener.variables, noisy, time, scalars, context, method=model.decode
        )

    rng = jax.random.fold_in(broaden_model.root_key(3, x), 0)
    plain = samplers.make_sampler("ddpm", broadener.process, 4)
    noise_rng = jax.random.fold_in(rng, 1)
    drawn = samplers.sample(plain, predict, noise_rng, (1, SAMPLES, 3))
    mean, log_variance = np.asarray(context.amplitude[0], np.float64)
    normal = float(jax.random.normal(jax.random.fold_in(rng, 0)))
    ratio = mean + np.exp(log_variance / 2) * normal
    estimate = np.asarray(drawn, np.float64) * size[0] * 10**ratio
    wanted = filters.complementary_merge(estimate, x[None], RATE, 1.0, iterations=8)
    np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4 * wanted.std())


@pytest.mark.parametrize("block", [32, 2])
def test_windows_of_any_size_are_brought_together_in_the_unit_of_the_record(
    monkeypatch, block
):
    """A network that takes its condition for the clean window gives the record back."""
    monkeypatch.setattr(broaden_windows, "BLOCK", block)
    x = low_passed(12.0) * np.geomspace(1.0, 1e-3, 240)[:, None]
    network = stubbed(lambda noisy, alpha, condition: condition, ratio=0.3)
    estimate = network.sample(x, num_samples=2, num_steps=3)
    wanted = filters.complementary_merge(x * 10**0.3, x, RATE, 1.0, iterations=8)
    np.testing.assert_allclose(estimate, [wanted, wanted], atol=2e-4 * np.abs(x).max())
    quiet = slice(160, 240)
    np.testing.assert_allclose(
        estimate[0, quiet], wanted[quiet], atol=2e-3 * x[quiet].std()
    )


@pytest.mark.parametrize("sampler", ["ddpm", "heun"])
def test_joined_windows_draw_what_one_network_of_the_whole_record_draws(sampler):
    """For unit Gaussian data, whose clean estimate is alpha times the noisy one."""
    network = Network(lambda noisy, alpha, condition: alpha * noisy)
    own = process.cosine()
    first = broaden_windows.starts(200, SAMPLES)
    joint = broaden_windows.joint_sampler(own, sampler, 5)
    plan = broaden_windows.Plan(network, own, joint, 1.0)
    condition = jnp.ones((len(first), SAMPLES, 3))
    scalars = jnp.zeros((len(first), 2))
    inputs = broaden_windows.read(plan, {}, condition, scalars, first)
    rngs = jax.random.split(jax.random.key(0), 2)
    bar = broaden_model.tqdm.tqdm(disable=True)
    sizes = np.full((2, len(first)), 3.0)
    got, scale = broaden_windows.denoise(plan, inputs, rngs, sizes, 200, bar)
    np.testing.assert_allclose(scale, 3.0, rtol=1e-12)

    def predict(noisy, time):
        return 0.0 * noisy  # the velocity of unit Gaussian data

    plain = samplers.make_sampler(sampler, own, 5)
    for sample, rng in zip(got, rngs, strict=True):
        wanted = samplers.sample(plain, predict, rng, (1, 200, 3))[0]
        np.testing.assert_allclose(sample, wanted, rtol=1e-4, atol=1e-5)


def test_quiet_and_strong_windows_draw_noise_of_their_own_sizes():
    gaussian = stubbed(lambda noisy, alpha, condition: alpha * noisy)
    x = np.concatenate([low_passed(20.0), 0.01 * low_passed(20.0, seed=1)])
    sample = gaussian.sample(x, num_samples=1, num_steps=25)[0]
    high = sample - filters.zero_phase_lowpass(sample, RATE, 1.0)
    for part in (slice(100, 300), slice(500, 700)):
        ratio = high[part].std() / x[part].std()
        assert 0.5 < ratio < 2.0


@pytest.mark.parametrize("sampler, num_steps", [("ddim", 100), ("ddpm", 25)])
def test_what_two_windows_share_stays_as_quiet_as_the_quiet_one(sampler, num_steps):
    """A network that takes some of what it should not see in its window for signal."""

    def clean(noisy, alpha, condition):
        return condition + 0.3 * (noisy - alpha * condition)

    x = np.concatenate([1e-4 * low_passed(8.0), low_passed(8.0, seed=1)])
    leaky = stubbed(clean)
    sample = leaky.sample(x, num_samples=1, num_steps=num_steps, sampler=sampler)[0]
    assert np.abs(sample).max() < 2 * np.abs(x).max()
    assert lf_snr(sample, x, RATE, 1.0) > 17.0
    assert sample[:80].std() < 1e-2 * x.std()


def test_records_draw_noise_of_their_own_from_one_seed():
    gaussian = stubbed(lambda noisy, alpha, condition: alpha * noisy)
    x, y = low_passed(), low_passed(seed=1)
    one, again, other = (
        gaussian.sample(record, seed=2, num_samples=1, num_steps=4)[0]
        for record in (x, x, y)
    )
    np.testing.assert_array_equal(one, again)
    one, other = (
        waveform - filters.zero_phase_lowpass(waveform, RATE, 2.0)
        for waveform in (one, other)
    )
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.3


def test_a_sample_beyond_any_ground_motion_is_an_error():
    loud = stubbed(lambda noisy, alpha, condition: alpha * noisy, ratio=4.0)
    with pytest.raises(ConfigError, match="in run reaches .* m/s.2, above 100; give"):
        loud.sample(low_passed(), num_samples=1, num_steps=2)


def test_the_condition_is_encoded_once_for_all_samples_and_steps():
    copy = stubbed(lambda noisy, alpha, condition: condition)
    copy.sample(low_passed(), num_samples=3, num_steps=4)
    assert copy.model.encoded == [(2, SAMPLES, 3)]


def test_samples_have_the_low_frequencies_of_their_record(broadener):
    x = low_passed()
    samples = broadener.sample(x, num_samples=2, num_steps=2)
    assert samples.shape == (2, 120, 3) and samples.dtype == np.float32
    for sample in samples:
        assert lf_snr(sample, x, RATE, 1.0) > 17.0
        assert np.abs(sample - x).max() > 0.01 * np.abs(x).max()


def test_samples_depend_on_the_seed_and_not_on_how_many_there_are(broadener):
    x = low_passed()
    options = dict(num_steps=2)
    both = broadener.sample(x, seed=5, num_samples=2, **options)
    again = broadener.sample(x, seed=5, num_samples=2, **options)
    np.testing.assert_array_equal(both, again)
    one = broadener.sample(x, seed=5, num_samples=1, **options)
    np.testing.assert_allclose(one[0], both[0], rtol=1e-4, atol=1e-4 * x.std())
    other = broadener.sample(x, seed=6, num_samples=2, **options)
    assert np.abs(other - both).max() > 1e-2 * x.std()


def test_one_draw_a_sample_places_the_amplitudes_of_all_windows(broadener):
    amplitude = jnp.array([[0.1, -2.0], [0.5, 0.3], [-0.2, -1.0]])
    rngs = list(jax.random.split(jax.random.key(0), 4))
    ratio = broadener._ratio(amplitude, rngs, 3)
    mean, log_variance = np.asarray(amplitude).T
    draws = (ratio - mean) / np.exp(log_variance / 2)
    np.testing.assert_allclose(draws, np.repeat(draws[:, :1], 3, 1), rtol=1e-5)
    assert len(np.unique(draws[:, 0])) == 4


def test_a_model_of_one_component_takes_each_component_alone(tmp_path):
    model, variables = runs.network(1)
    described = runs.preprocessing(1).to_json() | runs.ABOUT
    packaged.write(tmp_path, {"model": model}, {"model": variables}, described, "card")
    broadener = broaden_model.load(tmp_path)
    x = low_passed()
    x /= 100
    all_three = broadener.sample(x, num_samples=1, num_steps=2)
    assert all_three.shape == (1, 120, 3)
    first = broadener.sample(x[:, :1], num_samples=1, num_steps=2)
    np.testing.assert_allclose(first, all_three[..., :1], atol=1e-5 * x.std())
    alike = broadener.sample(x[:, [0, 0]], num_samples=1, num_steps=2)
    assert np.abs(alike[..., 0] - alike[..., 1]).max() > 1e-2 * x.std()


def test_targets_in_units_of_the_condition_need_no_amplitude(tmp_path):
    described = runs.preprocessing(normalization="by_x").to_json() | runs.ABOUT
    model, variables = runs.network(amplitude_head=False)
    packaged.write(tmp_path, {"model": model}, {"model": variables}, described, "card")
    broadener = broaden_model.load(tmp_path)
    x = low_passed()
    sample, larger = (
        broadener.sample(one, num_samples=1, num_steps=2)[0] for one in (x / 100, x)
    )
    assert np.isfinite(larger).all() and lf_snr(larger, x, RATE, 1.0) > 17.0
    assert 10 < larger.std() / sample.std() < 1000


def test_the_process_has_the_options_of_its_training(tmp_path):
    diffusion = dict(process="edm", parameterization="edm", options={"sigma_data": 3.0})
    described = runs.preprocessing().to_json() | runs.ABOUT | {"diffusion": diffusion}
    model, variables = runs.network()
    packaged.write(tmp_path, {"model": model}, {"model": variables}, described, "card")
    assert broaden_model.load(tmp_path).process.schedule.data_std == 3.0


def test_a_residual_target_is_added_to_the_low_pass():
    silent = stubbed(lambda noisy, alpha, condition: 0.0 * condition)
    own = dataclasses.replace(silent.preprocessing, target="residual")
    silent = dataclasses.replace(silent, preprocessing=own)
    x = low_passed()
    wanted = filters.complementary_merge(x, x, RATE, 1.0, iterations=8)
    got = silent.sample(x, num_samples=1, num_steps=2)[0]
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_samples_that_are_not_finite_are_an_error():
    broken = stubbed(lambda noisy, alpha, condition: condition / 0.0)
    with pytest.raises(ConfigError, match="in run are not finite; give another"):
        broken.sample(low_passed(), num_samples=1, num_steps=2)


def test_guidance_moves_samples_and_needs_a_model_that_knows_it(broadener):
    x = low_passed()
    plain, guided = (
        broadener.sample(x, num_samples=2, num_steps=2, guidance=scale)
        for scale in (1.0, 3.0)
    )
    assert np.abs(plain - guided).max() > 1e-3 * x.std()
    about = broadener.about | {"diffusion": {"condition_dropout": 0, "process": "edm"}}
    without = dataclasses.replace(broadener, about=about)
    with pytest.raises(ConfigError, match="guidance 3: .* leave --guidance at 1"):
        without.sample(x, num_samples=1, num_steps=2, guidance=3.0)
    assert without.sampling() == ("heun", 25, 1.0)


def test_a_packaged_model_says_how_to_sample(broadener):
    assert broadener.sampling() == ("ddim", 25, 1.0)
    about = broadener.about | {"sampling": {"sampler": "ddpm", "num_steps": 50}}
    other = dataclasses.replace(broadener, about=about)
    assert other.sampling() == ("ddpm", 50, 1.0)
    assert other.sampling(num_steps=7) == ("ddpm", 7, 1.0)


def test_the_corner_is_one_that_the_model_knows(broadener):
    assert broadener.corner() == broadener.corner(1.0) == 1.0
    with pytest.raises(ConfigError, match="corner 2 Hz: .* was trained on 1 Hz; give"):
        broadener.corner(2.0)
    for corners, usual in (((0.5, 4.0), 1.0), ((2.0, 4.0), 2.0), ((0.3, 0.6), 0.6)):
        own = dataclasses.replace(broadener.preprocessing, corner=corners)
        any_corner = dataclasses.replace(broadener, preprocessing=own)
        assert any_corner.corner() == usual
    with pytest.raises(ConfigError, match="trained on 0.3 to 0.6 Hz"):
        any_corner.corner(1.0)


def test_one_line_says_what_the_model_was_trained_on(broadener, folder):
    line = broadener.describe()
    assert line.startswith(f"model {folder} (") and "\n" not in line
    assert "trained on synthetic_motions/tiny/1.0.0, split train: 3 comp" in line
    assert line.endswith("windows of 4 s at 20 Hz, corner 1 Hz")
    about = broadener.about | {"trained_on": "two records"}
    other = dataclasses.replace(broadener, about=about)
    assert "trained on two records: 3 component" in other.describe()


@pytest.mark.parametrize(
    "x, options, message",
    [
        (low_passed(3.0), {}, "a record of 3 s is shorter than the window .* 4 s"),
        (low_passed()[:, :2], {}, r"shape \(120, 2\) for a model of 3 component"),
        (low_passed() * np.nan, {}, "not finite"),
        (low_passed() * [1, 0, 1], {}, "component 1 is constant"),
        (low_passed(), {"num_steps": 0}, "steps 0 must be 1 to 1000"),
        (low_passed(), {"num_steps": 1001}, "steps 1001 must be 1 to 1000"),
        (low_passed(), {"sampler": "euler"}, "'euler' is none of ddim, ddpm"),
        (low_passed(), {"guidance": -1.0}, "guidance -1.0 must be finite and at least"),
        (low_passed(), {"num_samples": 0}, "samples 0 must be at least 1"),
        (low_passed(), {"corner": 3.0}, "corner 3 Hz"),
    ],
)
def test_what_does_not_suit_the_model_is_a_config_error(broadener, x, options, message):
    with pytest.raises(ConfigError, match=message):
        broadener.sample(x, **options)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "labels"}, "of kind 'labels' is not 'broadband'"),
        ({"normalization": "rms"}, "normalization 'rms' is none of own_std"),
        ({"num_samples": 96}, "has 80 samples a window and its preprocessing 96"),
        ({"channels": 1}, "has 3 components and its preprocessing 1"),
        ({"units": "any", "amplitude": None}, "without amplitude_head, on rec"),
        ({"normalization": "by_x"}, "leaves nothing for amplitude_head to say"),
        ({"diffusion": None}, "does not say which diffusion process"),
        ({"diffusion": {"process": "ve"}}, "unknown process 've'"),
    ],
)
def test_a_model_of_another_preprocessing_is_a_config_error(tmp_path, changes, message):
    model, variables = runs.network()
    described = runs.preprocessing().to_json() | runs.ABOUT | changes
    packaged.write(tmp_path, {"model": model}, {"model": variables}, described, "card")
    with pytest.raises(ConfigError, match=message) as caught:
        broaden_model.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_broadening_model_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match="there is no model.json"):
        broaden_model.load(tmp_path)
    model_file.write(tmp_path, {}, {})
    with pytest.raises(ConfigError, match="holds 0 broadening models"):
        broaden_model.load(tmp_path)


def test_the_packaged_model_is_the_default(folder, broadener, monkeypatch):
    monkeypatch.setattr(broaden_model, "PACKAGED", folder)
    default = broaden_model.load()
    assert default.digest == broadener.digest
    assert default.describe().startswith("model jaxmodels/pretrained/broaden (")


def test_without_a_packaged_model_a_checkpoint_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(broaden_model, "PACKAGED", tmp_path)
    with pytest.raises(ConfigError, match="no trained model of its own; give --check"):
        broaden_model.load()
