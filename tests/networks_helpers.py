"""What the tests of networks share."""

import functools

import jax
import numpy as np
from helpers import QUICK

from jdqn import networks


def a_network(**fields):
    """A small network of float vectors; `field=value` of `QNetwork`."""
    defaults = {
        "num_actions": 3,
        "torso": "mlp",
        "torso_hidden": (8,),
        "hidden": (8,),
        "heads": 1,
        "scale": 1.0,
        "for_cpu": True,
    }
    return networks.QNetwork(**defaults | fields)


def random_params(module, rng, *inputs, scale=1.0):
    """Normal numbers in the shape of the module's parameters; nothing is compiled."""
    variables = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    draw = functools.partial(rng.normal, scale=scale)
    return jax.tree.map(lambda x: draw(size=x.shape).astype(np.float32), variables)


def initial(module, *inputs, seed=0):
    """The module's own initial variables."""
    init = jax.jit(module.init, compiler_options=QUICK)
    return init(jax.random.key(seed), *inputs)


def applied(module, *arguments, **options):
    """`module.apply` in one hastily compiled program."""
    return jax.jit(functools.partial(module.apply, **options), compiler_options=QUICK)(*arguments)
