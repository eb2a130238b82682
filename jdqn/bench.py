"""Speed of each stage and of the whole loop, the floor beside it: `python -m jdqn.bench`."""

import contextlib
import csv
import functools
import io
import itertools
import json
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdqn import agent as agent_lib
from jdqn import config, envs, networks, peers, priorities, replay, train
from jdqn.config import Config, ConfigError
from jdqn.records import EnvSpec
from jdqn.run import check_memory


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


def bench_stages(cfg: Config, *, seconds: float) -> Iterator[Row]:
    """Measures every stage on real frames; the last rows are the update and its floor.

    Args:
      cfg: what is trained.
      seconds: how long the emulators are measured.

    Yields:
      One row for each figure, as soon as it is there.
    """
    num_envs = cfg.env.num_envs
    with contextlib.closing(envs.make_env(cfg)) as env:
        spec = env.spec
        memory = replay.make_replay(cfg, spec)
        check_memory(cfg, memory)
        agent = agent_lib.make_agent(cfg, spec, memory)
        rng = np.random.default_rng(0)
        timesteps = [env.reset()]
        began = time.perf_counter()
        for ticks in itertools.count(1):
            env.send(rng.integers(0, spec.num_actions, num_envs))
            timesteps = [*timesteps[-255:], env.recv()]
            elapsed = time.perf_counter() - began
            if elapsed > seconds and ticks > 256:
                break
    yield Row("emulators, random actions", num_envs * ticks / elapsed, "steps/s")

    act = jax.jit(agent.act, donate_argnums=1)
    add = jax.jit(memory.add, donate_argnums=0)
    learn = agent_lib.jit_learning(agent.learn, (0, 1))
    draw = functools.partial(priorities.uniforms, batch_size=cfg.replay.batch_size)
    sample = jax.jit(lambda state, key, tick: memory.sample(state, draw(key), tick))
    refresh = jax.jit(memory.refresh, donate_argnums=0)
    by_priority = config.with_overrides(cfg, replay__priority_exponent=0.6)
    prioritised = replay.make_replay(by_priority, spec)

    @functools.partial(jax.jit, donate_argnums=0)
    def draw_and_update(state: replay.ReplayState, key: jax.Array, tick: int) -> replay.ReplayState:
        batch = prioritised.sample(state, draw(key), tick)  # its frames are not used: not gathered
        return prioritised.update(state, batch, jnp.abs(batch.reward) + 1e-3 * batch.row)

    state, actor = jax.jit(agent.init)(jax.random.key(0))
    memory_state = jax.jit(memory.init)(jax.random.key(1))
    action = jnp.zeros((num_envs,), jnp.int32)
    on_device = [jax.device_put(t) for t in timesteps]
    ticks = memory.capacity // num_envs  # the whole ring, or sampling would stay in the cache
    for tick in range(ticks):
        memory_state = add(memory_state, on_device[tick % len(on_device)], action, tick)
    jax.block_until_ready(memory_state)
    counter = itertools.count(ticks)

    def call_act(i: int) -> Any:
        nonlocal actor
        action, actor = act(state, actor, on_device[i % len(on_device)], i)
        return action

    def call_add(i: int) -> Any:
        nonlocal memory_state
        tick = next(counter)
        memory_state = add(memory_state, on_device[tick % len(on_device)], action, tick)
        return memory_state.max_priority

    def call_refresh(i: int) -> Any:
        nonlocal memory_state
        memory_state = refresh(memory_state, i)
        return memory_state.max_priority

    def call_update(i: int) -> Any:
        nonlocal memory_state
        memory_state = draw_and_update(memory_state, jax.random.key(i), i)
        return memory_state.max_priority

    def call_learn(i: int) -> Any:
        nonlocal state, memory_state
        # Past the start of learning, so that epsilon and the importance exponent move.
        tick = cfg.train.learning_starts_steps // num_envs + i
        state, memory_state, metrics = learn(state, memory_state, tick)
        return metrics

    yield Row("act", median_ms(call_act, 50), "ms/tick", f"{num_envs} environments")
    yield Row("add", median_ms(call_add, 200), "ms/tick", f"one row of {num_envs} frames")
    keys = [jax.random.key(i) for i in range(101)]
    sample_ms = median_ms(lambda i: sample(memory_state, keys[i], i), 100)
    yield Row("sample", sample_ms, "ms", f"batch of {cfg.replay.batch_size}")
    if cfg.replay.prioritization == "rank":
        errors = jax.random.uniform(jax.random.key(2), memory_state.priorities.leaves.shape)
        ranks = memory_state.priorities.ranks.replace(magnitude=errors)
        memory_state = memory_state.replace(priorities=memory_state.priorities.replace(ranks=ranks))
        refresh_ms, period = median_ms(call_refresh, 5), cfg.replay.rank_refresh_updates
        note = f"once in {period} updates: {refresh_ms / period:.3f} ms each"
        yield Row("refresh of ranks", refresh_ms, "ms", note)
    yield Row("draw + priority update", median_ms(call_update, 100), "ms")

    began = time.perf_counter()
    jax.block_until_ready(call_learn(0))
    yield Row("learn, first call", time.perf_counter() - began, "s", "compilation included")
    updates = agent_lib.updates_per_call(cfg)
    update_ms = median_ms(call_learn, max(80 // updates, 5)) / updates
    yield Row("update", update_ms, "ms", f"{updates} in one call")
    if len(spec.frame_shape) > 1:
        yield from _convolutions(cfg, spec)
    yield from _floor(cfg, spec, state.params, update_ms)


def _floor(cfg: Config, spec: EnvSpec, params: Any, update_ms: float) -> Iterator[Row]:
    """The least time of one update: its arithmetic or its bytes at the rates measured here."""
    flops = update_flops(cfg, spec)
    num_params = sum(x.size for x in jax.tree.leaves(params))
    # Parameters, two moments read and written; the gradient written and read; target read.
    num_bytes = 4 * num_params * 9
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (n, n))
    multiply = jax.jit(jnp.matmul)
    rate = 2 * n**3 / (1e-3 * median_ms(lambda i: multiply(a, a), 10))
    big = jnp.ones((2**28 if jax.default_backend() != "cpu" else 2**26,), jnp.float32)
    rewrite = jax.jit(lambda x: x + 1.0, donate_argnums=0)  # in place: no page faults

    def call(_: int) -> jax.Array:
        nonlocal big
        big = rewrite(big)
        return big

    bandwidth = 2 * big.nbytes / (1e-3 * median_ms(call, 10))
    arithmetic_ms, memory_ms = 1e3 * flops / rate, 1e3 * num_bytes / bandwidth
    floor_ms = max(arithmetic_ms, memory_ms)
    yield Row("float32 matmul", rate / 1e9, "GFLOP/s", f"{n} × {n}")
    yield Row("memory bandwidth", bandwidth / 1e9, "GB/s", "read + written")
    traffic = f"parameters and moments {num_bytes / 1e6:.0f} MB {memory_ms:.2f} ms"
    note = f"{flops / 1e9:.2f} GFLOP {arithmetic_ms:.2f} ms, {traffic}"
    yield Row("floor of an update", floor_ms, "ms", note)
    yield Row("update / floor", update_ms / floor_ms, "×")


def update_flops(cfg: Config, spec: EnvSpec) -> float:
    """Floating-point operations of one update, counted by XLA on the library's convolutions."""
    params, obs, forward = _summed_network(cfg, spec, for_cpu=False)

    def count(f: Callable[..., Any]) -> float:
        analysis = jax.jit(f).lower(params, obs).cost_analysis()
        return float(analysis["flops"] if analysis else "nan")

    forwards = 2 if cfg.agent.double else 1  # target, and the selector where it is not the target
    return count(jax.grad(forward)) + forwards * count(forward)


def _convolutions(cfg: Config, spec: EnvSpec) -> Iterator[Row]:
    """The network in both forms of its convolutions; `networks.Conv` picks one by backend."""
    for name, for_cpu in (("patches", True), ("library", False)):
        params, obs, forward = _summed_network(cfg, spec, for_cpu=for_cpu)
        for what, function in (("forward", forward), ("gradient", jax.grad(forward))):
            call = jax.jit(function)
            ms = median_ms(lambda _: call(params, obs), 20)  # noqa: B023
            yield Row(f"{what}, by {name}", ms, "ms", f"network alone, {len(obs)} observations")


def _summed_network(cfg: Config, spec: EnvSpec, *, for_cpu: bool) -> tuple[Any, jax.Array, Any]:
    """Parameters, a batch, and the sum of the network's outputs as a function of both."""
    network = networks.make_network(cfg, spec).clone(for_cpu=for_cpu)
    obs = jnp.ones((cfg.replay.batch_size, spec.frame_stack, *spec.frame_shape), spec.frame_dtype)

    def forward(params: Any, obs: jax.Array) -> jax.Array:
        return jnp.sum(network.apply(params, obs))  # type: ignore[arg-type]

    return network.init(jax.random.key(0), obs), obs, forward


def loop_rate(cfg: Config, *, steps: int) -> Row:
    """Agent steps per second of each seed while learning, by the log of the training loop itself.

    Args:
      cfg: what is trained; learning starts as early as it may.
      steps: agent steps to measure.
    """
    start = max(cfg.replay.batch_size, 64 * cfg.env.num_envs)
    # Not more log events than a run has: each looks at a thousand held-out states.
    period = max(steps // 4, 4 * max(cfg.env.num_envs, cfg.train.update_period_steps))
    short = config.with_overrides(
        cfg,
        train__learning_starts_steps=start,
        train__steps=start + 6 * period,
        train__log_period_steps=period,
        train__eval_episodes=0,
        train__checkpoint_period_steps=0,
        train__stop_return=None,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = train.train(short, run_dir=pathlib.Path(folder) / "run").run_dir
        log = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    # The first log event after the start holds the compilation.
    rates = [row["steps_per_second"] for row in log if row["steps"] > start + 2 * period]
    seeds, period = cfg.train.num_seeds, cfg.train.update_period_steps
    several = f", each of {seeds} seeds" if seeds > 1 else ""
    note = f"update every {period}{several}, median of {len(rates)} log events"
    return Row("whole loop", float(np.median(rates)), "steps/s", note)


def bench_loop(cfg: Config, *, steps: int) -> Iterator[Row]:
    """The speed of the training loop and the peak memory of the process so far."""
    yield loop_rate(cfg, steps=steps)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield Row("peak host memory", peak * (1 if sys.platform == "darwin" else 1024) / 1e9, "GB")
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        yield Row("peak device memory", stats["peak_bytes_in_use"] / 1e9, "GB")


def bench_peer(cfg: Config, *, steps: int) -> Iterator[Row]:
    """The loop beside SB3's with one environment and with as many; an update every 1, 4 steps."""
    for period in (1, 4):
        rated = config.with_overrides(cfg, train__update_period_steps=period)
        own = loop_rate(rated, steps=steps)
        yield own
        for num_envs in dict.fromkeys((1, cfg.env.num_envs)):
            peer_cfg = config.with_overrides(rated, env__num_envs=num_envs)
            rate = peers.sb3_steps_per_second(peer_cfg, steps=4_000)
            times = f"{num_envs} environments; jdqn is {own.value / rate:.1f} times as fast"
            yield Row("Stable-Baselines3", rate, "steps/s", times)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = config.Parser(
        prog="python -m jdqn.bench",
        description="Measures emulators, act, add, sample, update and the whole loop.",
        epilog="example: python -m jdqn.bench --env Breakout --csv bench.csv",
    )
    parser.add_argument("--steps", metavar="N", help="agent steps (10_000; JAX-native: 50_000)")
    parser.add_argument("--peer", metavar="NAME", help="sb3: only the loop, beside that library's")
    parser.add_argument("--csv", metavar="FILE", help="also write the figures there")
    config.add_options(parser)
    arguments = parser.parse(argv)
    try:
        cfg = config.from_options(arguments)
        steps = arguments.steps or ("50_000" if envs.is_native(cfg.env.name) else "10_000")
        if not steps.replace("_", "").isdigit():
            raise ConfigError(f"--steps {steps}: expected a whole number of agent steps")
        if arguments.peer not in (None, "sb3"):
            raise ConfigError(f"--peer {arguments.peer}: unknown library (known: sb3)")
        write = sys.stdout.write
        write(
            f"{cfg.agent.name} on {cfg.env.name}, {cfg.env.num_envs} environments, batch "
            f"{cfg.replay.batch_size} every {cfg.train.update_period_steps} steps; "
            f"{jax.devices()[0].device_kind}, jax {jax.__version__}\n"
        )
        if arguments.csv:
            pathlib.Path(arguments.csv).touch()  # refused now, not after minutes
        measured = (
            bench_peer(cfg, steps=int(steps))
            if arguments.peer
            # The loop first: peak memory is that of the process.
            else itertools.chain(bench_loop(cfg, steps=int(steps)), bench_stages(cfg, seconds=5.0))
        )
        rows = []
        for row in measured:
            rows.append(row)
            write(f"{row.stage:26} {row.value:12,.3f} {row.unit:8} {row.note}\n")
            sys.stdout.flush()
        if arguments.csv:
            with open(arguments.csv, "w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([Row._fields, *rows])
    except ConfigError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"{error.filename}: {error.strerror}")


if __name__ == "__main__":
    main()
