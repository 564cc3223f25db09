import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxmodels.train import digest

DTYPES = ("float32", "bfloat16", "float16", "int8", "uint16", "int32", "complex64")


def digest_of(x):
    return digest.inspect({"x": x})[0]["x"]


def slow_digest(words):
    """The sums for uint32 words [N], in Python integers."""
    first = second = 0
    for index, word in enumerate(int(word) for word in words):
        mixed = word * 0x85EBCA77 % 2**32
        mixed ^= mixed >> 15
        mixed = mixed * 0xC2B2AE3D % 2**32
        mixed ^= mixed >> 13
        first += word * (2 * index + 1)
        second += mixed * ((index * 0x9E3779B1 % 2**32 ^ 0x27D4EB2F) | 1)
    return [first % 2**32, second % 2**32]


def random_array(dtype, shape=(3, 5)):
    size = np.dtype(jnp.dtype(dtype)).itemsize
    data = np.random.default_rng(0).bytes(size * int(np.prod(shape)))
    return np.frombuffer(data, jnp.dtype(dtype)).reshape(shape)


def test_a_digest_is_the_sums_written_out_in_integers():
    x = random_array("float32", (2, 3, 4))
    assert digest_of(x) == slow_digest(x.view(np.uint32).ravel())


def test_narrow_elements_count_as_one_word_each():
    x = random_array("bfloat16")
    assert digest_of(x) == slow_digest(x.view(np.uint16).ravel())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_change_of_one_element_changes_the_digest(dtype):
    x = random_array(dtype)
    seen = {tuple(digest_of(x))}
    changes = 0
    for byte in range(x.nbytes):
        changed = bytearray(x.tobytes())
        changed[byte] ^= 1 << byte % 8
        changed = np.frombuffer(bytes(changed), x.dtype).reshape(x.shape)
        seen.add(tuple(digest_of(changed)))
        changes += 1
    assert len(seen) == changes + 1


def test_flipping_a_boolean_changes_the_digest():
    x = np.zeros(7, bool)
    assert len({tuple(digest_of(x ^ (np.arange(7) == i))) for i in range(8)}) == 8


def test_pairs_of_changes_do_not_cancel():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, 64, np.uint32)
    right = digest_of(x)
    for _ in range(300):
        i, j = rng.choice(64, 2, replace=False)
        changed = x.copy()
        delta = np.full(1, 1 << rng.integers(32), np.uint32)
        changed[[i]] += delta
        changed[[j]] -= delta
        assert digest_of(changed) != right


def test_the_digest_tells_zero_from_minus_zero_and_one_nan_from_another():
    bits = np.array([0, 1 << 31, 0x7FC00000, 0x7FC00001], np.uint32)
    assert len({tuple(digest_of(x)) for x in bits.view(np.float32)[:, None]}) == 4


def test_a_transposed_or_swapped_array_has_another_digest():
    x = random_array("float32", (4, 4))
    swapped = x.copy()
    swapped[[0, 1]] = swapped[[1, 0]]
    digests = [digest_of(x), digest_of(x.T.copy()), digest_of(swapped)]
    assert len(set(map(tuple, digests))) == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_the_digest_is_the_same_on_every_mesh(dtype):
    x = random_array(dtype, (8, 8))
    right = digest_of(x)
    for shape, spec in [
        ((8, 1), ("a", None)),
        ((2, 4), ("a", "b")),
        ((2, 4), ("b", "a")),
        ((4, 2), (None, "a")),
        ((4, 2), (("b", "a"), None)),
        ((4, 2), ()),
    ]:
        mesh = jax.make_mesh(shape, ("a", "b"), axis_types=(AxisType.Auto,) * 2)
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        assert digest_of(placed) == right


def test_arrays_that_are_not_finite_are_named():
    leaves = {
        "good": jnp.ones(3),
        "nan": jnp.array([1.0, jnp.nan]),
        "infinite": jnp.array([[jnp.inf]], jnp.bfloat16),
        "count": jnp.array([2**31 - 1]),
        "best": jnp.array(jnp.inf),
        "lost": jnp.array(jnp.nan),
        "empty": jnp.zeros((0, 3)),
    }
    assert digest.inspect(leaves)[1] == ["nan", "infinite", "lost"]


def test_a_typed_key_is_refused_by_name():
    with pytest.raises(ValueError, match="state/rng is a typed PRNG key.*key_data"):
        digest.inspect({"state/rng": jax.random.key(0)})


def test_nesting_undoes_flattening():
    tree = {"params": {"model": {"a": 1, "b": {"c": 2}}}, "step": 3}
    leaves = digest.flatten(tree)
    assert leaves == {"params/model/a": 1, "params/model/b/c": 2, "step": 3}
    assert digest.nest(leaves) == tree


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two leaves are named 'a/b'"):
        digest.flatten({"a/b": 1, "a": {"b": 2}})
