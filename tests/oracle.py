"""RLax, the oracle of losses and returns: an extra, so tests that need it are skipped without."""

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    try:
        import rlax
    except ImportError:
        rlax = None

needs_rlax = pytest.mark.skipif(rlax is None, reason="RLax is not installed")
