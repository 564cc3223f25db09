import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.train.flops import count_flops, memory_bytes, peak_flops


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def dense(w, x):
    return jnp.tanh(x @ w)


def test_a_product_counts_two_operations_a_multiplication():
    assert count_flops(jnp.matmul, struct(3, 5), struct(5, 7)) == 2 * 3 * 5 * 7


def test_a_batched_product_counts_every_member_of_the_batch():
    product = functools.partial(jnp.einsum, "bthk,bshk->bhts")
    assert (
        count_flops(product, struct(2, 3, 4, 5), struct(2, 6, 4, 5))
        == 2 * (2 * 4) * 3 * 6 * 5
    )


def test_a_scan_over_eight_layers_is_eight_times_one_layer():
    def stack(ws, x):
        return jax.lax.scan(lambda x, w: (dense(w, x), None), x, ws)[0]

    one = count_flops(dense, struct(4, 4), struct(3, 4))
    assert one == 2 * 3 * 4 * 4
    assert count_flops(stack, struct(8, 4, 4), struct(3, 4)) == 8 * one


def test_the_gradient_of_a_dense_layer_costs_three_times_the_layer():
    def loss(w, x):
        return dense(w, x).sum()

    step = jax.value_and_grad(loss, argnums=(0, 1))
    forward = count_flops(loss, struct(4, 6), struct(3, 4))
    assert count_flops(step, struct(4, 6), struct(3, 4)) == 3 * forward


def test_a_multilayer_perceptron_matches_six_operations_a_parameter_and_token():
    sizes, tokens = (4, 16, 16, 8), 5
    ws = [struct(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]

    def loss(ws, x):
        for w in ws:
            x = dense(w, x)
        return (x**2).sum()

    parameters = sum(w.size for w in ws)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    assert count_flops(step, ws, struct(tokens, 4)) == 6 * parameters * tokens


def test_a_custom_gradient_counts_what_it_really_does():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    def backward(saved, g):
        a, b = saved
        return g @ b.T @ (b @ b.T), a.T @ g  # one product more than needed

    product.defvjp(lambda a, b: (a @ b, (a, b)), backward)
    a, b = struct(3, 4), struct(4, 4)
    one = 2 * 3 * 4 * 4
    assert count_flops(product, a, b) == one

    def step(a, b):
        return jax.value_and_grad(lambda a, b: product(a, b).sum(), (0, 1))(a, b)

    assert count_flops(step, a, b) == 4 * one + 2 * 4 * 4 * 4


def test_recomputation_adds_the_forward_products_again():
    def loss(w, x):
        return jnp.sin(jnp.sin(x @ w) @ w).sum()

    w, x = struct(4, 4), struct(3, 4)
    plain = count_flops(jax.value_and_grad(loss, (0, 1)), w, x)
    remat = count_flops(jax.value_and_grad(jax.checkpoint(loss), (0, 1)), w, x)
    layer = 2 * 3 * 4 * 4
    assert plain == 6 * layer
    assert remat == 8 * layer


def test_a_value_that_nothing_uses_is_not_counted():
    def fun(w, x):
        unused = x @ w
        return x @ (w + 0 * unused.shape[0])

    one = 2 * 3 * 4 * 4
    assert count_flops(fun, struct(4, 4), struct(3, 4)) == one

    @jax.jit
    def two_products(w, x):
        return x @ w, x @ (w + 1)

    first = count_flops(lambda w, x: two_products(w, x)[0], struct(4, 4), struct(3, 4))
    assert first == one


def test_a_conditional_counts_as_its_largest_branch():
    def fun(x):
        return jax.lax.cond(
            x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, operand=x
        )

    assert count_flops(fun, struct(4, 4)) == 2 * 2 * 4**3


def test_a_loop_of_known_length_is_multiplied_and_an_unknown_one_is_noted():
    def known(x):
        return jax.lax.fori_loop(0, 5, lambda i, c: c @ x, x)

    def unknown(x, n):
        return jax.lax.fori_loop(0, n, lambda i, c: c @ x, x)

    notes = []
    assert count_flops(known, struct(4, 4), notes=notes) == 5 * 2 * 4**3
    assert notes == []
    assert count_flops(unknown, struct(4, 4), 3, notes=notes) == 2 * 4**3
    assert notes == ["a while loop with an unknown number of trips counts as one"]


def test_a_convolution_counts_output_times_taps_times_channels_of_its_group():
    def convolve(x, kernel, groups):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    full = functools.partial(convolve, groups=1)
    assert count_flops(full, struct(2, 9, 4), struct(3, 4, 6)) == 2 * 2 * 9 * 6 * 3 * 4
    depthwise = functools.partial(convolve, groups=4)
    assert count_flops(depthwise, struct(2, 9, 4), struct(3, 1, 4)) == 2 * 2 * 9 * 4 * 3


def test_the_gradient_of_a_strided_convolution_costs_three_times_the_convolution():
    def loss(x, kernel):
        y = jax.lax.conv_general_dilated(
            x, kernel, (2,), [(1, 1)], dimension_numbers=("NWC", "WIO", "NWC")
        )
        return (y**2).sum()

    args = struct(2, 16, 4), struct(4, 4, 6)
    forward = count_flops(loss, *args)
    assert forward == 2 * (2 * 8 * 6) * (4 * 4)
    assert count_flops(jax.value_and_grad(loss, (0, 1)), *args) == 3 * forward


def test_a_product_by_groups_costs_one_dense_product():
    def loss(x, ws):
        return (jax.lax.ragged_dot(x, ws, jnp.array([2, 4])) ** 2).sum()

    args = struct(6, 3), struct(2, 3, 5)
    one = 2 * 6 * 3 * 5
    assert count_flops(loss, *args) == one
    assert count_flops(jax.value_and_grad(loss, (0, 1)), *args) == 3 * one


def test_a_sharded_program_counts_the_work_of_all_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("data"), PartitionSpec()
    product = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(rows, whole), out_specs=rows
    )
    assert count_flops(product, struct(8, 3), struct(3, 5)) == 2 * 8 * 3 * 5


@pytest.mark.parametrize(
    "kind, peak, memory",
    [
        ("TPU v4", 275e12, 32 * 2**30),
        ("TPU v5 lite", 197e12, 16 * 2**30),
        ("TPU v5p", 459e12, 95 * 2**30),
        ("TPU v5", 459e12, 95 * 2**30),
        ("TPU v6 lite", 918e12, 32 * 2**30),
        ("NVIDIA H100 80GB HBM3", 989e12, 80e9),
        ("NVIDIA H100 PCIe", 756e12, 80e9),
        ("NVIDIA H200", 989e12, 141e9),
        ("NVIDIA A100-SXM4-40GB", 312e12, 40e9),
        ("NVIDIA A100-SXM4-80GB", 312e12, 80e9),
    ],
)
def test_a_known_accelerator_has_a_peak_and_a_memory(kind, peak, memory):
    assert peak_flops(kind) == peak
    assert memory_bytes(kind) == memory


def test_float32_halves_the_peak_on_a_gpu_but_not_on_a_tpu():
    assert peak_flops("NVIDIA H200", "float32") == 989e12 / 2
    assert peak_flops("TPU v4", "float32") == 275e12
    assert peak_flops("NVIDIA H200", "float64") is None


def test_a_cpu_and_an_unknown_device_have_no_peak():
    assert peak_flops(jax.devices()[0].device_kind) is None
    assert memory_bytes("Voodoo 2") is None
