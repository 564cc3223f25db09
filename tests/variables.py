"""Variables of a module without running its initializers, which compile slowly."""

import jax
import numpy as np


def random_variables(module, *args, seed=0, method=None, **options):
    """Gaussian leaves of the shapes that `module.init` gives, all of them non-zero.

    Kernels have a standard deviation of 1 / sqrt(8), scales and gains are near 1.
    """

    def init(rng):
        return module.init(rng, *args, method=method, **options)

    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        name = str(path[-1].key)
        noise = generator.normal(size=leaf.shape).astype(np.float32)
        if name in ("scale", "gain"):
            return jax.numpy.asarray(1.0 + 0.1 * noise)
        spread = 1.0 if name == "projection" else 8**-0.5
        return jax.numpy.asarray(spread * noise)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)
