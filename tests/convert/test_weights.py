import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxmodels.convert.weights import Weights, listed, read
from jaxmodels.train.errors import ConfigError


def test_each_array_is_handed_out_once_and_the_rest_is_named():
    weights = Weights(
        {"a": np.ones((2, 3), np.float16), "b": np.ones(2), "c": np.ones(1)}
    )
    assert weights.shape("a") == (2, 3) and "d" not in weights
    assert weights.take("a", 2, 3).dtype == np.float32
    with pytest.raises(ConfigError, match="a of the state dict would be used twice"):
        weights.take("a", 2, 3)
    weights.drop("c")
    with pytest.raises(
        ConfigError, match="1 arrays of the state dict have no place.* b;"
    ):
        weights.finish()
    weights.take("b", 2)
    weights.finish()


def test_a_missing_array_and_a_wrong_shape_are_named():
    weights = Weights({"kernel": np.ones((2, 3))}, "weights.pt")
    with pytest.raises(ConfigError, match=r"weights.pt has no bias; it has kernel\."):
        weights.take("bias", 3)
    with pytest.raises(ConfigError, match=r"kernel .* shape \[2, 3\], .* for \[3, 2\]"):
        weights.take("kernel", 3, 2)


def test_a_long_list_of_names_breaks_off():
    assert listed("cab") == "a, b, c"
    assert listed("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"


def test_a_safetensors_file_gives_its_arrays_and_those_it_refers_to(tmp_path):
    path = tmp_path / "weights.safetensors"
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_file({"kernel": kernel}, path, metadata={"tied": "kernel", "format": "pt"})
    arrays = read(path)
    assert sorted(arrays) == ["kernel", "tied"]
    np.testing.assert_array_equal(arrays["tied"], kernel)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ConfigError, match="is no whole safetensors file"):
        read(str(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.pt", "there is no file nowhere.pt"),
        ([1, 2], "holds a list, not a state dict"),
        ({"model": {"a": 1}, "step": 3}, "other things than arrays under model, step"),
    ],
)
def test_what_is_no_state_dict_is_refused(source, message):
    with pytest.raises(ConfigError, match=message):
        read(source)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / "weights.pt"
    torch.save({"path": tmp_path}, path)
    with pytest.raises(ConfigError, match="is not what torch.save.model.state_dict"):
        read(path)
