import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxmodels.train import optimizer

PARAMS = {
    "embed": {"embedding": jnp.ones((4, 6))},
    "layers": {
        "attention": {
            "query": {"kernel": jnp.ones((2, 6, 2, 3))},
            "out": {"kernel": jnp.ones((2, 2, 3, 6))},
        },
        "mlp": {"up": {"kernel": jnp.ones((2, 6, 5)), "bias": jnp.ones((2, 5))}},
        "norm": {"scale": jnp.ones((2, 6))},
    },
}


def test_the_schedule_warms_up_then_falls_to_its_end():
    rate = optimizer.make_schedule(
        1.0, 100, warmup_steps=10, schedule="cosine", end_fraction=0.1
    )
    values = np.array([rate(n) for n in range(101)])
    assert values[0] == pytest.approx(0.1) and values[10] == pytest.approx(1.0)
    assert values[100] == pytest.approx(0.1)
    assert values[55] == pytest.approx(0.55)  # half way down a cosine
    assert (np.diff(values[:11]) > 0).all() and (np.diff(values[10:]) < 0).all()


@pytest.mark.parametrize("name", optimizer.NAMES)
def test_every_optimizer_descends_a_quadratic(name):
    transform = optimizer.make_optimizer(name, 0.1, 60, warmup_steps=5, clip_norm=1.0)
    target = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.ndim), x.shape), PARAMS
    )

    def loss(params):
        return sum(
            jnp.square(a - b).sum()
            for a, b in zip(
                jax.tree.leaves(params), jax.tree.leaves(target), strict=True
            )
        )

    @jax.jit
    def step(params, state):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, transform.init(PARAMS)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.5 * loss(PARAMS)


@pytest.mark.parametrize("name", optimizer.NAMES)
def test_weight_decay_reaches_kernels_and_tables_only(name):
    transform = optimizer.make_optimizer(
        name, 0.1, 10, schedule="constant", weight_decay=0.5
    )
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = transform.update(zeros, transform.init(PARAMS), PARAMS)
    kernel = updates["layers"]["mlp"]["up"]["kernel"]
    np.testing.assert_allclose(kernel, -0.05, rtol=1e-5)
    assert not updates["layers"]["norm"]["scale"].any()
    assert not updates["layers"]["mlp"]["up"]["bias"].any()


def test_muon_takes_the_matrices_and_adam_the_rest():
    dimensions = optimizer.muon_dimensions(PARAMS)
    layers = dimensions["layers"]
    assert layers["attention"]["query"]["kernel"] == ((1,), (2, 3))
    assert layers["attention"]["out"]["kernel"] == ((1, 2), (3,))
    assert layers["mlp"]["up"]["kernel"] == ((1,), (2,))
    assert layers["mlp"]["up"]["bias"] is None
    assert dimensions["embed"]["embedding"] is None


def test_clipping_bounds_the_gradient_norm():
    transform = optimizer.make_optimizer("adamw", 1.0, 10, clip_norm=1e-3)
    big = jax.tree.map(lambda x: 100.0 * jnp.ones_like(x), PARAMS)
    _, state = transform.update(big, transform.init(PARAMS), PARAMS)
    first_moment = optax.tree.norm(optax.tree.get(state, "mu"))
    assert first_moment == pytest.approx(0.1 * 1e-3, rel=1e-4)


def test_wrong_names_and_warm_ups_are_errors():
    with pytest.raises(ValueError, match="optimizer 'adma' is none of adamw, lion"):
        optimizer.make_optimizer("adma", 1e-3, 10)
    with pytest.raises(ValueError, match="schedule 'cosin' is none of cosine"):
        optimizer.make_schedule(1e-3, 10, schedule="cosin")
    with pytest.raises(ValueError, match=r"warmup_steps 10 must lie in \[0, num_steps"):
        optimizer.make_schedule(1e-3, 10, warmup_steps=10)


@pytest.mark.parametrize("name", optimizer.NAMES)
def test_frozen_modules_stay_and_count_for_no_norm(name):
    fields = dict(schedule="constant", weight_decay=0.5, clip_norm=1.0)
    transform = optimizer.make_optimizer(name, 0.1, 10, **fields, freeze=("embed",))
    alone = optimizer.make_optimizer(name, 0.1, 10, **fields)
    grads = jax.tree.map(lambda x: 0.01 * x, PARAMS)
    grads["embed"] = jax.tree.map(lambda x: 1e6 * x, PARAMS["embed"])
    updates, _ = transform.update(grads, transform.init(PARAMS), PARAMS)
    assert not updates.pop("embed")["embedding"].any()
    rest = {"layers": PARAMS["layers"]}
    wanted, _ = alone.update({"layers": grads["layers"]}, alone.init(rest), rest)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, wanted
    )


def test_a_part_of_a_module_is_frozen_by_its_path():
    params = {"mlp": {"up": {"kernel": 1.0, "bias": 1.0}, "up_2": {"bias": 1.0}}}
    params = jax.tree.map(jnp.asarray, params)
    fields = dict(schedule="constant", freeze=("mlp/up",))
    transform = optimizer.make_optimizer("adamw", 0.1, 10, **fields)
    updates, _ = transform.update(params, transform.init(params), params)
    moved = jax.tree.map(bool, updates["mlp"])
    assert moved == {"up": {"kernel": False, "bias": False}, "up_2": {"bias": True}}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encoder", "freeze names 'encoder'; the modules are embed, layers"),
        (
            "embed/table",
            "freeze names 'embed/table'; the modules in embed are embedding",
        ),
        ("embed/embedding/x", "the modules in embed/embedding are none"),
    ],
)
def test_a_frozen_module_that_is_not_there_is_an_error(path, message):
    transform = optimizer.make_optimizer("adamw", 0.1, 10, freeze=(path,))
    with pytest.raises(ValueError, match=message):
        transform.init(PARAMS)
