import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

from jaxmodels.train import optimizer, sharding
from jaxmodels.train.state import start


def params(vocab=16):
    return {
        "model": {
            "embed": {"embedding": jnp.zeros((vocab, 8))},
            "layers": {
                "attention": {
                    "query": {"kernel": jnp.zeros((2, 8, 4, 6))},
                    "out": {"kernel": jnp.zeros((2, 4, 6, 8))},
                },
                "mlp": {
                    "up": {"kernel": jnp.zeros((2, 8, 32)), "bias": jnp.zeros((2, 32))},
                    "down": {"kernel": jnp.zeros((2, 32, 8))},
                },
                "norm": {"scale": jnp.zeros((2, 8))},
            },
        }
    }


def specs(tree, mesh):
    placed = sharding.state_shardings(tree, mesh)
    return {
        sharding.path_name(path): leaf.spec
        for path, leaf in jax.tree_util.tree_leaves_with_path(placed)
    }


def state_with(transform, vocab=16):
    own = params(vocab)
    opt_state = {"model": transform.init(own["model"])}
    return start(own, opt_state, {"model": own["model"]}, {})


MESH = dict(data=1, fsdp=2, model=2, seq=2)


def test_parameters_moments_and_averages_share_one_table():
    found = specs(state_with(optax.adam(1.0)), sharding.make_mesh(**MESH))
    expected = {
        "embed/embedding": P("model", None),
        "layers/attention/query/kernel": P(None, "fsdp", "model", None),
        "layers/attention/out/kernel": P(None, "model", None, "fsdp"),
        "layers/mlp/up/kernel": P(None, "fsdp", "model"),
        "layers/mlp/up/bias": P(None, "model"),
        "layers/mlp/down/kernel": P(None, "model", "fsdp"),
        "layers/norm/scale": P(None, None),
    }
    for path, spec in expected.items():
        for prefix in ("params", "ema", "opt_state"):
            places = [
                value
                for name, value in found.items()
                if name.startswith(prefix) and name.endswith(path)
            ]
            assert places and all(place == spec for place in places), (prefix, path)
    assert found["step"] == P()


def test_factored_moments_lose_the_axis_that_they_sum_over():
    state = state_with(optax.adafactor(1.0, min_dim_size_to_factor=4))
    found = specs(state, sharding.make_mesh(**MESH))

    def moment(name, path):
        return next(s for p, s in found.items() if f"/{name}/{path}" in p)

    # The two largest axes of [2, 8, 32] are 32 (dropped in v_row) and 8 (in v_col).
    assert moment("v_row", "layers/mlp/up/kernel") == P(None, "fsdp")
    assert moment("v_col", "layers/mlp/up/kernel") == P(None, "model")
    assert moment("v_row", "layers/mlp/up/bias") == P(None)
    assert moment("v_row", "layers/attention/query/kernel") == P(None, "model", None)


@pytest.mark.parametrize("name", optimizer.NAMES)
def test_every_leaf_of_every_optimizer_can_be_placed(name):
    mesh = sharding.make_mesh(**MESH)
    state = state_with(optimizer.make_optimizer(name, 1e-3, 10, weight_decay=0.1))
    placed = sharding.state_shardings(jax.eval_shape(lambda: state), mesh)
    for leaf, place in zip(
        jax.tree.leaves(state), jax.tree.leaves(placed), strict=True
    ):
        place.shard_shape(leaf.shape)


def test_a_dimension_that_does_not_divide_is_replicated_and_listed():
    mesh = sharding.make_mesh(**MESH)
    state = state_with(optax.sgd(1.0), vocab=17)
    assert specs(state, mesh)["params/model/embed/embedding"] == P(None, None)
    assert sharding.undivided(state.params, mesh) == [
        "model/embed/embedding: 17 is not divisible by model=2"
    ]


def test_a_mesh_that_does_not_fit_the_devices_says_so():
    assert sharding.make_mesh().shape["data"] == 8
    assert sharding.make_mesh(fsdp=4).shape["data"] == 2
    with pytest.raises(ValueError, match="data 3 x fsdp 1 x model 1 x seq 1 .*8 dev"):
        sharding.make_mesh(data=3)
    with pytest.raises(ValueError, match="at most one is -1"):
        sharding.make_mesh(data=-1, fsdp=-1)
    with pytest.raises(ValueError, match="at least 1"):
        sharding.make_mesh(fsdp=0)


def test_mesh_errors_come_all_at_once_with_the_way_out():
    shape = dict(data=2, fsdp=2, model=1, seq=2)
    assert sharding.check_mesh(shape, 8, batch_size=8, lengths={"length": 6}) == []
    lengths = {"inputs": 7, "targets": 8, "context": 1}
    lines = sharding.check_mesh(shape, 8, batch_size=10, lengths=lengths)
    assert len(lines) == 3
    assert "batch_size 10 is not divisible" in lines[0] and "try 8 or 12" in lines[0]
    assert lines[1] == "inputs 7 is not divisible by seq=2; try 6 or 8"
    assert lines[2] == "context 1 is not divisible by seq=2; try 2 or 4"
    assert len(sharding.check_mesh(shape, 4, batch_size=8)) == 1
