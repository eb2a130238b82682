"""What a measurement is."""

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Row(NamedTuple):
    """One measured figure."""

    stage: str
    value: float
    unit: str
    note: str = ""


def median_ms(call: Callable[[int], Any], calls: int) -> float:
    """Median time of `call(i)` in milliseconds, its result waited for, after one warm-up."""
    jax.block_until_ready(call(0))
    times = []
    for i in range(1, calls + 1):
        began = time.perf_counter()
        jax.block_until_ready(call(i))
        times.append(time.perf_counter() - began)
    return 1e3 * float(np.median(times))


def peak_host_gb() -> float:
    """The most memory that this process has held so far, in GB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9
