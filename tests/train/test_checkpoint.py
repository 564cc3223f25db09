import os
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmodels.train import checkpoint, state, stored
from jaxmodels.train.errors import ConfigError, StorageError

AXES = ("data", "fsdp", "model", "seq")
MESHES = [(8, 1, 1, 1), (1, 8, 1, 1), (2, 2, 2, 1), (1, 1, 4, 2)]


def make_state(step, width=8):
    """A small state of every kind of leaf; its values follow from the step."""
    rngs = jax.random.split(jax.random.key(step), 3)
    params = {
        "model": {
            "embed": {"embedding": jax.random.normal(rngs[0], (16, width))},
            "out": {"kernel": jax.random.normal(rngs[1], (8, 8)).astype(jnp.bfloat16)},
        },
        "frozen": {"bias": jnp.arange(3.0) + step},
    }
    trained = {"model": params["model"]}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    new = state.start(
        params,
        {"model": optimizer.init(params["model"])},
        jax.tree.map(lambda x: x * 2, trained),
        {"model": {"projections": {"projection": jax.random.normal(rngs[2], (4, 2))}}},
    )
    return new.replace(step=jnp.int32(step))


def sharding(leaf, shape):
    mesh = jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 4)
    spec = PartitionSpec("fsdp", "model") if leaf.ndim == 2 else PartitionSpec()
    spec = spec if leaf.ndim == 2 and leaf.shape[0] >= 8 else PartitionSpec()
    return NamedSharding(mesh, spec)


def place(tree, shape=(2, 2, 2, 1)):
    return jax.tree.map(lambda x: jax.device_put(x, sharding(x, shape)), tree)


def target_of(tree, shape=(8, 1, 1, 1)):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding(x, shape)),
        tree,
    )


def assert_same(one, other):
    chex.assert_trees_all_equal(jax.device_get(one), jax.device_get(other))
    chex.assert_trees_all_equal_dtypes(one, other)


@pytest.fixture
def open_checkpoints(tmp_path):
    opened = []

    def start(**options):
        opened.append(checkpoint.Checkpoints(tmp_path / "checkpoints", **options))
        return opened[-1]

    yield start
    for checkpoints in opened:
        checkpoints.close()


def tree_of_files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_a_state_comes_back_to_the_bit_on_other_meshes(open_checkpoints):
    saved = make_state(3)
    checkpoints = open_checkpoints()
    assert checkpoints.save(place(saved), wait=True)
    for shape in MESHES:
        target = target_of(saved, shape)
        restored = checkpoints.restore(target)
        assert_same(restored, saved)
        assert isinstance(restored, state.TrainState)
        jax.tree.map(
            lambda x, wanted: chex.assert_equal(x.sharding, wanted.sharding),
            restored,
            target,
        )


def test_a_state_comes_back_on_one_device(open_checkpoints):
    saved = make_state(3)
    checkpoints = open_checkpoints()
    checkpoints.save(place(saved), wait=True)
    device = jax.devices()[5]
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=jax.sharding.SingleDeviceSharding(device)
        ),
        saved,
    )
    restored = checkpoints.restore(target)
    assert_same(restored, saved)
    assert {x.device for x in jax.tree.leaves(restored)} == {device}


@pytest.mark.parametrize("shape", [(2, 2, 2, 1), (8, 1, 1, 1), (1, 8, 1, 1)])
def test_a_state_may_be_donated_and_overwritten_right_after_save(
    open_checkpoints, shape
):
    saved = make_state(1, width=2**16)  # 4 MiB a leaf: still being written below
    placed = place(saved, shape)
    saved = jax.tree.map(np.array, saved)  # out of reach of the donation
    shardings = jax.tree.map(lambda x: x.sharding, placed)
    overwrite = jax.jit(
        lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree),
        donate_argnums=0,
        out_shardings=shardings,
    )
    compiled = overwrite.lower(placed).compile()
    checkpoints = open_checkpoints()
    assert checkpoints.save(placed)
    for _ in range(20):
        placed = compiled(placed)
    jax.block_until_ready(placed)
    assert_same(checkpoints.restore(target_of(saved)), saved)


def test_there_is_nothing_to_restore_before_the_first_save(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    assert checkpoints.restore(target_of(make_state(0))) is None
    assert checkpoints.steps() == []
    assert not (tmp_path / "checkpoints").exists()


def test_steps_are_what_is_on_disk(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints(keep=9)
    for step in (2, 10, 7):
        checkpoints.save(make_state(step), wait=True)
    folder = tmp_path / "checkpoints"
    for name in ("007", "8.corrupt", "best", "9.orbax-checkpoint-tmp"):
        (folder / name).mkdir()
    (folder / "11").write_text("a file")
    assert checkpoints.steps() == [2, 7, 10]
    shutil.rmtree(folder / "7")
    assert checkpoints.steps() == [2, 10]


def test_the_newest_and_every_nth_step_are_kept(open_checkpoints):
    checkpoints = open_checkpoints(keep=2, keep_every=3)
    for step in range(1, 8):
        assert checkpoints.save(make_state(step))
    checkpoints.wait()
    assert checkpoints.steps() == [3, 6, 7]


def test_no_step_is_removed_for_a_newer_one_that_is_not_whole(
    open_checkpoints, tmp_path
):
    checkpoints = open_checkpoints(keep=2)
    checkpoints.save(make_state(1))
    checkpoints.save(make_state(2), wait=True)
    (tmp_path / "checkpoints/2/digests/digests.json").write_text("{}")
    checkpoints.save(make_state(3), wait=True)
    assert checkpoints.steps() == [1, 2, 3]
    checkpoints.save(make_state(4), wait=True)
    assert checkpoints.steps() == [3, 4]


def test_a_state_that_is_not_finite_is_never_saved(open_checkpoints, caplog):
    checkpoints = open_checkpoints()
    checkpoints.save(make_state(1), wait=True)
    bad = make_state(2)
    bad.params["model"]["out"]["kernel"] *= jnp.nan
    assert not checkpoints.save(bad)
    assert "checkpoint 2 was not saved" in checkpoints.last_error
    assert "params/model/out/kernel is not finite" in checkpoints.last_error
    assert [record.getMessage() for record in caplog.records] == [
        checkpoints.last_error
    ]
    with pytest.raises(StorageError, match="kernel is not finite"):
        checkpoints.save(bad, wait=True)
    assert checkpoints.steps() == [1]
    assert checkpoints.save(make_state(3), wait=True)
    assert checkpoints.last_error is None
    assert checkpoints.steps() == [1, 3]


def test_saving_the_same_state_again_writes_nothing(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    checkpoints.save(make_state(4), wait=True)
    before = tree_of_files(tmp_path)
    assert checkpoints.save(make_state(4), wait=True)
    assert tree_of_files(tmp_path) == before


def test_saving_another_state_of_the_same_step_replaces_it(open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(make_state(4), wait=True)
    other = make_state(5).replace(step=jnp.int32(4))
    assert checkpoints.save(other, wait=True)
    assert_same(checkpoints.restore(target_of(other)), other)


def test_what_killed_saves_left_is_removed_by_the_next_writer(
    open_checkpoints, tmp_path
):
    left = tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)
    checkpoints = open_checkpoints()
    checkpoints.restore(target_of(make_state(1)))
    assert left.exists()  # a reader must not disturb another process that writes
    checkpoints.save(make_state(1), wait=True)
    assert not left.exists()


@pytest.mark.parametrize("option", ["keep", "keep_every"])
def test_keeping_less_than_one_step_is_refused(tmp_path, option):
    with pytest.raises(ConfigError, match=f"{option} 0 is less than 1"):
        checkpoint.Checkpoints(tmp_path, **{option: 0})


def test_another_shape_stops_with_the_difference(open_checkpoints, tmp_path):
    checkpoints = open_checkpoints()
    for step in (1, 2):
        checkpoints.save(make_state(step), wait=True)
    before = tree_of_files(tmp_path)
    with pytest.raises(ConfigError) as caught:
        checkpoints.restore(target_of(make_state(0, width=24)))
    assert (
        "model/embed/embedding: the model wants float32[16, 24], the checkpoint holds "
        "float32[16, 8]; and 3 more" in str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert checkpoints.save(make_state(3), wait=True)
    assert checkpoints.steps() == [1, 2, 3]
    assert before.keys() <= tree_of_files(tmp_path).keys()


def test_another_dtype_or_tree_stops_with_the_difference(open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(make_state(1), wait=True)
    other = make_state(1)
    model = other.params["model"]
    model["out"]["kernel"] = model["out"]["kernel"].astype(jnp.float32)
    model["gate"] = model.pop("embed")
    with pytest.raises(ConfigError) as caught:
        checkpoints.restore(target_of(other))
    for line in (
        "model/embed/embedding: the model wants nothing, the checkpoint holds "
        "float32[16, 8]",
        "model/gate/embedding: the model wants float32[16, 8], the checkpoint holds "
        "nothing",
        "model/out/kernel: the model wants float32[8, 8], the checkpoint holds "
        "bfloat16[8, 8]",
    ):
        assert line in str(caught.value)


def test_a_difference_in_the_optimizer_alone_is_named(open_checkpoints):
    checkpoints = open_checkpoints()
    checkpoints.save(make_state(1), wait=True)
    other = make_state(1)
    other.opt_state["model"] = optax.sgd(1.0).init(other.params["model"])
    with pytest.raises(ConfigError, match="opt_state/model/1/0/count: .* int32"):
        checkpoints.restore(target_of(other))


def test_saving_and_restoring_print_nothing(open_checkpoints, capfd):
    checkpoints = open_checkpoints()
    for step in (1, 2):
        checkpoints.save(place(make_state(step)))
    checkpoints.restore(target_of(make_state(0)))
    assert capfd.readouterr() == ("", "")


def test_a_run_is_written_where_a_relative_path_leads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = checkpoint.Checkpoints("run/checkpoints")
    checkpoints.save(make_state(1), wait=True)
    checkpoints.close()
    assert os.listdir("run/checkpoints") == ["1"]
    assert list(checkpoint.restore_networks("run")) == ["frozen", "model"]


@pytest.fixture
def run(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        checkpoints.save(place(make_state(step)))
    checkpoints.close()
    return tmp_path


def test_networks_come_back_averaged_and_without_the_optimizer(run, monkeypatch):
    read = []
    original = stored._read_arrays
    monkeypatch.setattr(
        stored,
        "_read_arrays",
        lambda path, wanted: read.extend(wanted) or original(path, wanted),
    )
    saved = make_state(2)
    networks = checkpoint.restore_networks(run)
    assert_same(
        networks,
        {
            "model": {"params": saved.ema["model"], **saved.collections["model"]},
            "frozen": {"params": saved.params["frozen"]},
        },
    )
    assert not [name for name in read if name.startswith(("opt_state", "params/model"))]


def test_one_network_of_one_step_comes_back(run):
    networks = checkpoint.restore_networks(run, networks=["frozen"], step=1)
    assert_same(networks, {"frozen": {"params": make_state(1).params["frozen"]}})


def test_asking_for_what_a_run_has_not_is_refused(run, tmp_path):
    with pytest.raises(ConfigError, match="no network 'decoder'; it has frozen, model"):
        checkpoint.restore_networks(run, networks=["decoder"])
    with pytest.raises(ConfigError, match="no checkpoint 3 in .*; it holds 1, 2"):
        checkpoint.restore_networks(run, step=3)
    with pytest.raises(
        ConfigError, match="no checkpoint in .*name the folder of a run"
    ):
        checkpoint.restore_networks(tmp_path / "elsewhere")


def test_networks_start_from_another_run(run):
    fresh = place(make_state(9))
    started, lines = checkpoint.init_from(run, fresh)
    trained = make_state(2)
    assert lines == []
    assert_same(started.params["model"], trained.ema["model"])
    assert_same(started.ema["model"], trained.ema["model"])
    assert_same(started.params["frozen"], trained.params["frozen"])
    assert_same(started.collections, trained.collections)
    assert_same(started.opt_state, fresh.opt_state)
    assert int(started.step) == 9
    jax.tree.map(lambda x, y: chex.assert_equal(x.sharding, y.sharding), started, fresh)
    # Donated, so no buffer may be there twice.
    step = jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)
    assert int(step(started).step) == 10


def test_what_does_not_match_another_run_is_listed(run):
    fresh = make_state(9)
    model = fresh.params["model"]
    model["out"]["kernel"] = jnp.zeros((8, 3))
    model["head"] = {"kernel": jnp.zeros(2)}
    del model["embed"]
    started, lines = checkpoint.init_from(run, fresh, ["model", "frozen"])
    assert [line.replace(str(run), "RUN") for line in lines] == [
        "model/embed/embedding: only in RUN, unused",
        "model/head/kernel: not in RUN, starts anew",
        "model/out/kernel: the model wants float32[8, 3], RUN holds bfloat16[8, 8]; "
        "starts anew",
    ]
    assert_same(started.params["model"], model)
    assert_same(started.params["frozen"], make_state(2).params["frozen"])


def test_networks_that_only_one_run_has_are_a_line_each(run):
    fresh = make_state(9)
    fresh.params["critic"] = {"kernel": jnp.zeros(2), "bias": jnp.zeros(2)}
    del fresh.params["frozen"]
    _, lines = checkpoint.init_from(run, fresh)
    assert lines == [
        f"critic: not in {run}, starts anew",
        f"frozen: only in {run}, unused",
    ]


def test_only_the_chosen_networks_start_from_another_run(run):
    fresh = make_state(9)
    started, lines = checkpoint.init_from(run, fresh, ["frozen"])
    assert lines == []
    assert_same(started.params["frozen"], make_state(2).params["frozen"])
    assert_same(started.params["model"], fresh.params["model"])
    assert_same(started.ema, fresh.ema)


def test_a_run_in_which_nothing_matches_is_refused(run):
    fresh = make_state(9)
    fresh.params["frozen"]["bias"] = jnp.zeros(5)
    with pytest.raises(
        ConfigError, match="nothing in .* matches.*frozen/bias: the mod"
    ):
        checkpoint.init_from(run, fresh, ["frozen"])
    with pytest.raises(ConfigError, match="no network 'decoder'; it has frozen, model"):
        checkpoint.init_from(run, fresh, ["decoder"])
