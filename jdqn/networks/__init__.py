"""Flax modules: torsos, layers of K heads, the Q-network, noise on its weights."""

from jdqn.networks.layers import Conv, HeadDense, QuantileEmbedding
from jdqn.networks.noise import draw_noise, factor_noise, perturbed, signal_to_noise
from jdqn.networks.q_network import QNetwork, centred, make_network
from jdqn.networks.torsos import TORSOS, largest_singular_values, says_torso

__all__ = [
    "TORSOS",
    "Conv",
    "HeadDense",
    "QNetwork",
    "QuantileEmbedding",
    "centred",
    "draw_noise",
    "factor_noise",
    "largest_singular_values",
    "make_network",
    "perturbed",
    "says_torso",
    "signal_to_noise",
]
