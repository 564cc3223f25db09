import json

import chex
import jax
import numpy as np
import pytest

from jaxmodels.train import loop, sharding
from jaxmodels.train.errors import ConfigError, DivergedError
from tests.train.small import SmallData, make_task

OPTIONS = dict(log_every=1, eval_every=0, save_every=2, quiet=True)


def fit(workdir=None, *, num_steps=6, data=None, **options):
    data = SmallData() if data is None else data
    return loop.fit(
        make_task(),
        data,
        num_steps=num_steps,
        workdir=workdir,
        **{**OPTIONS, **options},
    )


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def losses(workdir):
    return [line["loss"] for line in lines(workdir) if line["split"] == "train"]


def equal(first, second):
    chex.assert_trees_all_equal(jax.device_get(first), jax.device_get(second))


SHAPES = [
    dict(data=8),
    dict(data=1, fsdp=8),
    dict(data=2, fsdp=2, model=2),
    dict(data=1, fsdp=2, model=2, seq=2),
    dict(data=1, model=8),
]


@pytest.mark.slow  # tests/end_to_end/test_meshes.py does it for a real model
def test_every_mesh_gives_the_losses_of_one_device(tmp_path):
    one = sharding.make_mesh(devices=jax.devices()[:1])
    fit(tmp_path / "one", mesh=one)
    for index, shape in enumerate(SHAPES):
        workdir = tmp_path / str(index)
        fit(workdir, mesh=sharding.make_mesh(**shape))
        np.testing.assert_allclose(
            losses(workdir), losses(tmp_path / "one"), rtol=1e-6, atol=1e-7
        )


def test_every_mesh_starts_from_the_same_bits():
    def start(mesh):
        with loop.on_mesh(mesh):
            jitted = loop.programs(make_task(), mesh)
            return jax.device_get(jitted.init(loop.keys(3)[0]))

    one = start(sharding.make_mesh(devices=jax.devices()[:1]))
    for shape in SHAPES:
        equal(start(sharding.make_mesh(**shape)), one)


@pytest.mark.parametrize("cut", [1, 4, 5])
def test_a_resumed_run_repeats_an_uninterrupted_one_to_the_bit(tmp_path, cut):
    straight = fit(tmp_path / "straight")
    fit(tmp_path / "cut", num_steps=cut)
    resumed = fit(tmp_path / "cut")
    equal(resumed, straight)
    texts = [
        (tmp_path / name / "metrics.jsonl").read_text() for name in ("straight", "cut")
    ]
    trains = [[t for t in text.splitlines() if '"train"' in t] for text in texts]
    assert trains[0] == trains[1]


def test_a_run_goes_on_on_another_mesh(tmp_path):
    one = sharding.make_mesh(devices=jax.devices()[:1])
    fit(tmp_path / "one", mesh=one)
    fit(tmp_path / "moved", num_steps=3, mesh=one)
    fit(tmp_path / "moved", mesh=sharding.make_mesh(data=2, fsdp=2, model=2))
    np.testing.assert_allclose(
        losses(tmp_path / "moved"), losses(tmp_path / "one"), rtol=1e-6
    )


def test_lines_past_the_restored_step_are_dropped(tmp_path):
    fit(tmp_path, num_steps=4, save_every=4)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 5, "split": "train", "loss": 99.0}\n{"step": 6, "spl')
    fit(tmp_path, num_steps=6)
    steps = [line["step"] for line in lines(tmp_path) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert 99.0 not in losses(tmp_path)


def test_a_finished_run_is_left_as_it_is(tmp_path):
    first = fit(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_text()
    equal(fit(tmp_path), first)
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_refused_updates_are_as_if_their_batches_had_not_been(tmp_path):
    state = fit(tmp_path, data=SmallData(bad={2, 4}))
    assert list(state.skips) == [0, 2] and int(state.step) == 6
    found = lines(tmp_path)
    bad = next(line for line in found if line["step"] == 3)
    assert bad["loss"] is None and bad["skipped"] == 1.0
    chex.assert_tree_all_finite(jax.device_get(state.params))


def test_past_the_limit_the_run_stops_and_names_step_and_record(tmp_path):
    data = SmallData(bad=range(2, 100))
    limits = loop.Limits(nonfinite_in_a_row=3)
    with pytest.raises(DivergedError) as caught:
        fit(tmp_path, num_steps=50, data=data, limits=limits)
    assert caught.value.exit_code == 65
    message = str(caught.value)
    assert "3 updates in a row were not finite, the last one at step 5" in message
    assert "record example 35" in message and "\n" not in message


def test_scattered_refusals_reach_the_limit_per_thousand():
    limits = loop.Limits(nonfinite_per_thousand=4)
    with pytest.raises(DivergedError, match="4 of the last 14 updates"):
        fit(num_steps=50, data=SmallData(bad={1, 5, 9, 13}), limits=limits)


def test_the_count_in_a_row_survives_a_restart(tmp_path):
    data = SmallData(bad=range(2, 100))
    limits = loop.Limits(nonfinite_in_a_row=4)
    fit(tmp_path, num_steps=4, data=data, limits=limits)
    with pytest.raises(DivergedError, match="the last one at step 6 "):
        fit(tmp_path, num_steps=9, data=data, limits=limits)


def test_evaluation_is_the_mean_over_the_evaluation_batches(tmp_path):
    state = fit(tmp_path, num_steps=2)
    data, task = SmallData(), make_task()
    logged = next(line for line in lines(tmp_path) if line["split"] == "eval")
    pairs = [
        task.eval_step(state, data.eval(i, 0, 1), jax.random.key(0))["loss"]
        for i in range(2)
    ]
    expected = sum(float(s) for s, _ in pairs) / sum(float(n) for _, n in pairs)
    assert logged["loss"] == pytest.approx(expected, rel=1e-6)
    assert logged["zero_loss"] == 1.0
    again = loop.evaluate(task, data, state)
    assert again["loss"] == pytest.approx(logged["loss"], rel=1e-6)


def test_a_run_starts_from_the_averages_of_another(tmp_path, capsys):
    source = fit(tmp_path / "source", num_steps=3)
    one = sharding.make_mesh(devices=jax.devices()[:1])
    begin = dict(init_from=(tmp_path / "source", None), num_steps=1, quiet=False)
    state = fit(tmp_path / "new", seed=5, mesh=one, **begin)
    assert str(tmp_path / "source") in "".join(capsys.readouterr())
    task, (init_rng, train_rng, _) = make_task(), loop.keys(5)
    averages = jax.device_get(source.ema)
    start = task.init(init_rng).replace(params=averages, ema=averages)
    rng = jax.random.fold_in(train_rng, 0)
    expected, _ = task.train_step(start, SmallData().train(0, 0, 1), rng)
    chex.assert_trees_all_close(
        jax.device_get(state.params), jax.device_get(expected.params), rtol=1e-5
    )


def test_a_checkpoint_of_another_model_stops_with_the_difference(tmp_path):
    fit(tmp_path, num_steps=2)
    task = make_task()

    def wider(rng):
        state = task.init(rng)
        kernel = jax.numpy.zeros((4, 32))
        state.params["model"]["up"]["kernel"] = kernel
        return state

    with pytest.raises(ConfigError, match=r"up/kernel.*\[4, 32\].*\[4, 16\]"):
        loop.fit(task._replace(init=wider), SmallData(), num_steps=4, workdir=tmp_path)


def test_numbers_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match="num_steps 0 must be at least 1"):
        fit(num_steps=0)
    with pytest.raises(ValueError, match="log_every -1 must be at least 1"):
        fit(log_every=-1)


def test_the_workdir_holds_what_the_readme_says(tmp_path):
    fit(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.jsonl", "loss.png", "checkpoints"} <= names
    assert any("events" in name for name in names)
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_a_trace_of_chosen_steps_is_written(tmp_path):
    fit(tmp_path, profile_steps=(2, 4))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_of_another_preprocessing_is_nothing_to_start_from(tmp_path):
    fit(tmp_path / "source", num_steps=1)
    data = SmallData()
    data.preprocessing = {"rate": 50}
    with pytest.raises(ConfigError, match="init_from: rate is 100 in .* and 50 here"):
        fit(tmp_path / "new", data=data, init_from=(tmp_path / "source", None))
