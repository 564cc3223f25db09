"""Whole runs that are killed, asked to stop, or moved, and go on."""

import random
import shutil
import signal
import time

import numpy as np
import pytest

from tests.end_to_end import launcher


def check_equal(workdir, straight, texts, **overrides):
    found = launcher.final_state(workdir, texts, **overrides)
    expected = launcher.final_state(straight, texts, **overrides)
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    assert launcher.losses(workdir) == launcher.losses(straight)


def finish(workdir, texts, **options):
    code, text = launcher.run(workdir, texts, **options)
    assert code == 0, text
    return text


def kill_and_resume(workdir, texts, straight, kills, **overrides):
    """Kills a run at random updates, every other time while it saves.

    Returns how many kills hit a save.
    """
    generator, hits = random.Random(0), 0
    num_steps = overrides["num_steps"]
    for index in range(kills):
        run = launcher.Run(workdir, texts, **overrides)
        first = num_steps * index // (kills + 1)
        assert run.reached(first + generator.randint(1, num_steps // (kills + 1)))
        if index % 2:
            hits += run.saving()
        else:
            time.sleep(generator.random() * 0.05)
        assert run.alive(), run.wait()
        run.kill()
    finish(workdir, texts, **overrides)
    check_equal(workdir, straight, texts, **overrides)
    return hits


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path, texts):
    overrides = {"num_steps": 200, "save_every": 1}
    finish(tmp_path / "straight", texts, **overrides)
    hits = kill_and_resume(
        tmp_path / "killed", texts, tmp_path / "straight", 2, **overrides
    )
    assert hits == 1


@pytest.mark.slow
def test_ten_kills_five_of_them_in_a_save(tmp_path, texts):
    overrides = {"num_steps": 1000, "save_every": 1}
    finish(tmp_path / "straight", texts, **overrides)
    hits = kill_and_resume(
        tmp_path / "killed", texts, tmp_path / "straight", 10, **overrides
    )
    assert hits == 5


@pytest.mark.slow
def test_a_killed_sequence_to_sequence_run_draws_the_same_features_again(
    tmp_path, pair_files
):
    options = {"config": launcher.PAIRS, "num_steps": 60, "save_every": 4}
    run = launcher.Run(tmp_path / "killed", pair_files, **options)
    # Saved after update 8, between the redraws of updates 5 and 10.
    saved = tmp_path / "killed/checkpoints/8"
    assert run.wait_for(saved.is_dir), run.wait()
    run.kill()
    assert launcher.lines(tmp_path / "killed")[-1]["step"] < 50
    assert "resumed" in finish(tmp_path / "killed", pair_files, **options)
    finish(tmp_path / "straight", pair_files, **options)
    check_equal(tmp_path / "killed", tmp_path / "straight", pair_files, **options)
    never = options | {"loss.feature_redraw_interval": 0}
    finish(tmp_path / "never", pair_files, **never)
    drawn, kept = (
        {
            name: leaf
            for name, leaf in launcher.final_state(
                tmp_path / folder, pair_files, **options
            ).items()
            if "projection" in name
        }
        for folder in ("killed", "never")
    )
    assert len(drawn) == 3
    assert not any(np.array_equal(drawn[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 83), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_run_that_is_asked_to_stop_saves_and_goes_on(tmp_path, texts, number, code):
    overrides = {"num_steps": 400, "save_every": 0}
    run = launcher.Run(tmp_path / "stopped", texts, **overrides)
    assert run.reached(3)
    run.send(number)
    found, text = run.wait()
    assert found == code, text
    assert "Traceback" not in text
    saved = [int(path.name) for path in (tmp_path / "stopped/checkpoints").iterdir()]
    assert len(saved) == 1 and 3 <= saved[0] < 400
    assert "resumed" in finish(tmp_path / "stopped", texts, **overrides)
    finish(tmp_path / "straight", texts, **overrides)
    check_equal(tmp_path / "stopped", tmp_path / "straight", texts, **overrides)


def compare(workdir, straight, tolerance=1e-6):
    found, expected = launcher.losses(workdir), launcher.losses(straight)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=tolerance), step


def run_together(workdir, texts, processes, **options):
    runs = launcher.together(workdir, texts, processes, **options)
    for code, text in [run.wait() for run in runs]:
        assert code == 0, text


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one(tmp_path, texts, straight):
    run_together(tmp_path / "two", texts, 2, **{"mesh.fsdp": 2})
    compare(tmp_path / "two", straight)


@pytest.mark.slow
def test_a_checkpoint_of_four_processes_goes_on_on_any_number_of_devices(
    tmp_path, texts, straight
):
    source = tmp_path / "four"
    run_together(source, texts, 4, **{"num_steps": 4, "mesh.data": 2, "mesh.fsdp": 2})
    for devices in (1, 2, 8):
        workdir = tmp_path / str(devices)
        shutil.copytree(source, workdir)
        finish(workdir, texts, devices=devices)
        compare(workdir, straight)
    workdir = tmp_path / "again"
    shutil.copytree(source, workdir)
    run_together(workdir, texts, 2, devices=2, **{"mesh.model": 2})
    compare(workdir, straight)


@pytest.mark.slow
def test_four_processes_give_the_losses_of_one(tmp_path, texts, straight):
    run_together(tmp_path / "four", texts, 4)
    compare(tmp_path / "four", straight)


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_stops_both_at_the_same_step(tmp_path, texts):
    overrides = {"num_steps": 2000, "save_every": 0}
    runs = launcher.together(tmp_path / "two", texts, 2, **overrides)
    assert runs[0].reached(5)
    runs[1].send(signal.SIGTERM)
    assert [run.wait()[0] for run in runs] == [83, 83]
    saved = list((tmp_path / "two/checkpoints").iterdir())
    assert len(saved) == 1


def test_processes_of_different_configs_stop_before_they_compile(tmp_path, texts):
    port = launcher.free_port()
    runs = [
        launcher.Run(
            tmp_path / "run",
            texts,
            place=(process, 2, port),
            **{"model.num_layers": process + 1},
        )
        for process in range(2)
    ]
    for code, text in [run.wait() for run in runs]:
        assert code == 64, text
        assert "model.num_layers: process 0 has 1, process 1 has 2" in text
        assert "Traceback" not in text
