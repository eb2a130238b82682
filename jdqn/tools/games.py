"""Games to look at: what happens at each step, and what the agent thinks of it."""

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jdqn import learning
from jdqn.config import Config, ConfigError, shown
from jdqn.envs import screens
from jdqn.envs.screens import Shown
from jdqn.learning import ActorState, Agent, AgentState
from jdqn.records import Timestep
from jdqn.runs import evaluation
from jdqn.tools import scenes

ONE_HEAD = "head"  # a policy: one head, drawn for each game as in training


class Opinion(NamedTuple):
    """What an agent says of a state, and who acts."""

    q: np.ndarray  # [K, A] f32
    probabilities: np.ndarray | None  # [K, A, Z] f32 of the value head's returns; None: it has none
    head: int  # as `ActorState.head`
    explores: bool  # the action is not what the policy finds best
    quantiles: np.ndarray | None = None  # [K, A, Z] f32 of the return; None: it has none


class Moment(NamedTuple):
    """One step of a game."""

    seed: int  # of the game
    step: int  # agent steps so far
    score: float  # raw reward so far
    picture: np.ndarray  # [H, W, 3] u8
    stack: np.ndarray  # [S, *frame_shape]: what the network sees
    opinion: Opinion | None  # None: a random agent
    action: int | None  # what it does now; None: the game is over


class Brain(NamedTuple):
    """An agent with what it has learned."""

    agent: Agent
    state: AgentState
    act: Callable[..., Any]  # jitted
    think: Callable[..., Any]  # jitted


def make_brain(config: Config, agent: Agent, state: AgentState) -> Brain:
    """An agent ready to play."""
    head = learning.make_value_head(config)

    def think(state: AgentState, actor: ActorState, tick: int) -> dict[str, jax.Array]:
        # With the samples that `act_in_evaluation` draws: others may find another action best.
        answer = agent.output(state, actor.stack, jax.random.fold_in(actor.key, tick))
        said = {"q": answer.q[0]}
        if head.support is None or answer.raw is None or answer.raw.shape[-1] == 1:
            return said
        if head.is_mean:
            return said | {"quantiles": answer.raw[0]}
        return said | {"probabilities": jax.nn.softmax(answer.raw[0], axis=-1)}

    return Brain(agent, jax.device_put(state), jax.jit(agent.act_in_evaluation), jax.jit(think))


def returns_of(config: Config) -> np.ndarray | None:
    """The returns `[Z]` that a value head weighs; None: it has no distribution over fixed ones."""
    head = learning.make_value_head(config)
    return None if head.support is None or head.is_mean else np.asarray(head.support)


def distribution(opinion: Opinion, returns: np.ndarray | None) -> np.ndarray | None:
    """What an opinion says of each of the returns `[Z]`, `[K, A, Z]`; None: nothing.

    Of quantiles the part that is nearest to each.
    """
    if opinion.quantiles is None or returns is None:
        return opinion.probabilities
    size = len(returns)
    *rows, num_quantiles = opinion.quantiles.shape
    places = np.rint((opinion.quantiles - returns[0]) / (returns[1] - returns[0])).astype(int)
    row = size * np.arange(math.prod(rows)).reshape(*rows, 1)
    counts = np.bincount((row + places.clip(0, size - 1)).ravel(), minlength=size * row.size)
    return counts.reshape(*rows, size) / num_quantiles


def check_policy(policy: str, num_heads: int) -> None:
    """Raises ConfigError where a policy is not one of an agent of so many heads."""
    heads = [f"head_{k}" for k in range(num_heads)]
    if policy not in ("vote", "mean", ONE_HEAD, *heads):
        which = heads[0] if num_heads == 1 else f"head_0 to {heads[-1]}"
        raise ConfigError(
            f"--policy {shown(policy)}: must be vote, mean, {which}, or head (one for each game)"
        )


def play(config: Config, brain: Brain | None, *, seed: int, policy: str) -> Iterator[Moment]:
    """Plays one game: the one that an evaluation of one game with this seed plays.

    Args:
      config: uses `env`, `agent.epsilon_eval`, and `train.seed`, to which belongs what an
        environment draws once for a run.
      brain: who plays; None: random actions.
      seed: of the game.
      policy: see `check_policy`.

    Yields:
      What happens, the last moment with the game over.

    Raises:
      EnvError: the environment goes wrong.
    """
    stage = screens.show(config, seed=seed)
    mind = _Random(stage, seed) if brain is None else _Thinking(config, brain, seed, policy)
    scene = scenes.make_scene(config.env, stage.shape)
    score = 0.0
    try:
        timestep = stage.env.reset()
        for tick in itertools.count():
            stack, opinion, action = mind(timestep, tick)
            frame = np.asarray(timestep.frame[0])
            own = stage.picture
            picture = scene(frame, bool(timestep.first[0])) if own is None else own()
            is_over = bool(timestep.last[0])
            score += float(timestep.reward[0])
            yield Moment(seed, tick, score, picture, stack, opinion, None if is_over else action)
            if is_over:
                return
            stage.env.send(np.array([action], np.int32))
            timestep = stage.env.recv()
    finally:
        stage.env.close()


# What the network sees `[S, *frame_shape]`, what it thinks of that, and the action.
Thought = tuple[np.ndarray, Opinion | None, int]


class _Thinking:
    """An agent at one game."""

    def __init__(self, config: Config, brain: Brain, seed: int, policy: str):
        if policy == ONE_HEAD:
            policy = f"head_{np.random.default_rng(seed).integers(config.network.heads)}"
        self._brain = brain
        self._head = evaluation.head_of(policy)
        self._actor = evaluation.start_actor(brain.agent, seed, 1, policy)

    def __call__(self, timestep: Timestep, tick: int) -> Thought:
        brain = self._brain
        action, self._actor = brain.act(brain.state, self._actor, timestep, tick)
        said = jax.device_get(brain.think(brain.state, self._actor, tick))
        number = int(action[0])
        explores = not is_best(said["q"], self._head, number)
        opinion = Opinion(**{"probabilities": None} | said, head=self._head, explores=explores)
        return np.asarray(self._actor.stack[0]), opinion, number


class _Random:
    """Random actions."""

    def __init__(self, stage: Shown, seed: int):
        self._random = np.random.default_rng(seed)
        self._spec = stage.env.spec
        self._frames: list[np.ndarray] = []

    def __call__(self, timestep: Timestep, _: int) -> Thought:
        frame = np.asarray(timestep.frame[0])
        before = self._frames or [frame] * self._spec.frame_stack
        self._frames = [*before[1:], frame]
        return np.stack(self._frames), None, int(self._random.integers(self._spec.num_actions))


def is_best(q: np.ndarray, head: int, action: int) -> bool:
    """Whether a policy may find an action best.

    Args:
      q: `[K, A]` f32.
      head: as `ActorState.head`: a head, or whose vote or mean acts.
      action: the one that was taken.
    """
    score: np.ndarray
    if head == learning.ALL_VOTE:
        score = np.bincount(q.argmax(axis=1), minlength=q.shape[1])
    else:
        score = q.mean(axis=0) if head == learning.ALL_MEAN else q[head]
    return bool(score[action] >= score.max() - 1e-6 * np.abs(score).max())


class Film:
    """Moments of games, kept small: pictures are compressed."""

    def __init__(self, first: int, most: int | None):
        """Keeps `most` moments from number `first` on; None: all."""
        self.seen = 0
        self.most: np.ndarray | None = None  # [*frame_shape], the largest size of each entry
        self._first = first
        self._end = None if most is None else first + most
        self._moments: list[Moment] = []
        self._pictures: list[tuple[_Packed, _Packed]] = []

    def append(self, moment: Moment) -> None:
        """Keeps a moment, if it is one of those."""
        number = self.seen
        self.seen += 1
        if number < self._first or (self._end is not None and number >= self._end):
            return
        sizes = np.abs(moment.stack).max(axis=0)
        self.most = sizes if self.most is None else np.maximum(self.most, sizes)
        nothing = np.zeros(0, np.uint8)
        self._pictures.append((_packed(moment.picture), _packed(moment.stack)))
        self._moments.append(moment._replace(picture=nothing, stack=nothing))

    def __len__(self) -> int:
        return len(self._moments)

    def __getitem__(self, number: int) -> Moment:
        picture, stack = self._pictures[number]
        return self._moments[number]._replace(picture=_unpacked(picture), stack=_unpacked(stack))

    @property
    def ends(self) -> list[int]:
        """The numbers of moments with which a game ends."""
        return [i for i, moment in enumerate(self._moments) if moment.action is None]

    @property
    def opinions(self) -> list[Opinion]:
        """All there are."""
        return [moment.opinion for moment in self._moments if moment.opinion is not None]


_Packed = tuple[bytes, tuple[int, ...], np.dtype]


def _packed(array: np.ndarray) -> _Packed:
    return zlib.compress(np.ascontiguousarray(array).tobytes(), 1), array.shape, array.dtype


def _unpacked(packed: _Packed) -> np.ndarray:
    data, shape, dtype = packed
    return np.frombuffer(zlib.decompress(data), dtype).reshape(shape)
