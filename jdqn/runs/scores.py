"""Human-normalised scores."""

# Random and human score, up to 30 no-ops at the start, as DQN Zoo has them (Wang et al. 2015).
REFERENCE_SCORES = {
    "Breakout": (1.7, 30.5),
    "MontezumaRevenge": (0.0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "Pong": (-20.7, 14.6),
    "Qbert": (163.9, 13455.0),
    "Seaquest": (68.4, 42054.7),
    "SpaceInvaders": (148.0, 1668.7),
}


def human_normalised(game: str, score: float) -> float | None:
    """0 for a random agent, 1 for the human tester; None where the game has no reference here."""
    if game not in REFERENCE_SCORES:
        return None
    random, human = REFERENCE_SCORES[game]
    return (score - random) / (human - random)
