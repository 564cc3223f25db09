import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.train import checkpoint, packaged, state
from jaxmodels.train.errors import ConfigError
from tests.pipelines import small_runs


def variables(value=1.0):
    return {
        "model": {
            "params": {"a": {"kernel": np.array([[value, 0.1]], np.float32)}},
            "counts": {"n": np.array([3], np.int32)},
        }
    }


def write(path, values=None, **options):
    networks = {"model": small_runs.language_model()[0]}
    values = variables() if values is None else values
    return packaged.write(path, networks, values, {"rate": 2}, "card", **options)


def test_what_is_written_is_read_again(tmp_path):
    assert not packaged.is_packaged(tmp_path)
    size = write(tmp_path)
    assert size == (tmp_path / "model.safetensors").stat().st_size
    assert packaged.is_packaged(tmp_path)
    networks, values, preprocessing = packaged.read(tmp_path)
    assert networks == {"model": small_runs.language_model()[0]}
    assert preprocessing == {"rate": 2}
    np.testing.assert_array_equal(
        values["model"]["params"]["a"]["kernel"], np.float32([[1.0, 0.1]])
    )
    assert values["model"]["counts"]["n"].dtype == np.int32
    assert packaged.weights_digest(values) == packaged.weights_digest(variables())


def test_the_same_weights_give_the_same_file(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder)
    first, second = (
        (tmp_path / folder / "model.safetensors").read_bytes() for folder in "ab"
    )
    assert first == second


def test_half_precision_rounds_weights_and_nothing_else(tmp_path):
    write(tmp_path, dtype="float16")
    _, values, _ = packaged.read(tmp_path)
    kernel = values["model"]["params"]["a"]["kernel"]
    assert kernel.dtype == np.float32 and kernel[0, 1] == np.float16(0.1)
    assert values["model"]["counts"]["n"].dtype == np.int32


def test_the_digest_changes_with_every_value_and_name():
    digests = {
        packaged.weights_digest(values)
        for values in (
            variables(),
            variables(1.0 + 1e-7),
            {"other": variables()["model"]},
        )
    }
    assert len(digests) == 3


def test_weights_that_half_precision_cannot_hold_are_an_error(tmp_path):
    with pytest.raises(ConfigError, match="a/kernel is not finite as float16: .* 1e"):
        write(tmp_path, variables(1e6), dtype="float16")
    with pytest.raises(ConfigError, match="dtype 'int8' is none of float32, float16"):
        write(tmp_path, dtype="int8")


def test_files_that_do_not_belong_together_are_an_error(tmp_path):
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is not the file that model.json beside it"):
        packaged.read(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match="model.safetensors cannot be read: No such"):
        packaged.read(tmp_path)


def test_networks_and_weights_have_to_be_of_one_model(tmp_path):
    write(tmp_path)
    path = tmp_path / "model.json"
    content = json.loads(path.read_text())
    content["networks"]["other"] = content["networks"].pop("model")
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="network 'model' is not in both"):
        packaged.read(tmp_path)


def test_a_run_starts_from_a_packaged_model(tmp_path):
    write(tmp_path)
    trained = variables()["model"]
    zeros = jax.tree.map(jnp.zeros_like, trained)
    params = {"model": zeros.pop("params")}
    params["critic"] = {"bias": jnp.zeros(2)}
    fresh = state.start(
        params,
        {"model": optax.EmptyState()},
        {"model": params["model"]},
        {"model": zeros},
    )
    started, lines = checkpoint.init_from(tmp_path, fresh)
    assert lines == [f"critic: not in {tmp_path}, starts anew"]
    chex.assert_trees_all_equal(started.params["model"], trained["params"])
    chex.assert_trees_all_equal(started.ema["model"], trained["params"])
    assert started.collections["model"]["counts"]["n"].tolist() == [3]
    jax.tree.map(lambda x, y: chex.assert_equal(x.sharding, y.sharding), started, fresh)
    fresh.params["model"]["a"]["kernel"] = jnp.zeros((3, 2))
    _, (_, line) = checkpoint.init_from(tmp_path, fresh)
    assert "wants float32[3, 2]" in line and "holds float32[1, 2]" in line
