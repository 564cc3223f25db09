"""A step of the linear scan computed in parts, as on the threads of one CPU device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers import linear_attention as la
from jaxmodels.layers import linear_scan
from tests.layers import test_linear_scan as forms


@pytest.mark.parametrize(("axis", "masks"), [(2, "mask_and_segments"), (0, "mask")])
def test_parts_of_a_step_change_neither_outputs_nor_gradients(axis, masks, monkeypatch):
    length = 22  # the last chunk is ragged
    with jax.enable_x64(True):
        inputs, form = forms.make_inputs("mlstm", length), forms.make_form("mlstm")
        options = forms.make_masks("mlstm", length)[masks]

        def run(parts):
            monkeypatch.setattr(linear_scan, "_parts", lambda *_: (axis, parts))

            def loss(inputs):
                out, state = la.causal_linear_attention(
                    **inputs, **form, **options, chunk_size=4
                )
                true = state.sums * jnp.exp(state.log_scale)[..., None, None]
                return jnp.sum(jnp.sin(out)) + jnp.sum(true**2), (out, state)

            return forms.jit(jax.value_and_grad(loss, has_aux=True))(inputs)

        forms.close(run(2), run(1), 1e-13)


@pytest.mark.parametrize(
    ("devices", "shape", "expected"),
    [
        (1, (1, 8, 65, 256), (2, 4)),
        (1, (4, 3, 65, 256), (0, 4)),
        (1, (2, 3, 65, 256), (2, 3)),
        (1, (1, 1, 65, 256), (2, 1)),
        (1, (2, 2, 5, 8), (2, 1)),
        (8, (1, 8, 65, 256), (2, 1)),
    ],
)
def test_a_step_is_parted_where_one_cpu_device_has_enough_work(
    devices, shape, expected, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert linear_scan._parts(shape, 64) == expected


def test_sums_of_more_keys_than_one_product_takes_well_equal_smaller_ones():
    """Above 64 keys a chunk is summed by another product."""
    features = la.favor_plus(la.orthogonal_projection(jax.random.key(7), 3, 4))
    inputs = forms.make_inputs("favor_plus", 150, batch=1)

    def run(chunk_size):
        state = la.key_value_state(
            inputs["key"], inputs["value"], features=features, chunk_size=chunk_size
        )
        return state.sums * jnp.exp(state.log_scale)[..., None, None]

    np.testing.assert_allclose(run(100), run(50), rtol=1e-5, atol=1e-5)
