"""Looking for settings: Optuna draws them in batches, successive halving ends the worse early.

Everything follows from the files of the trials and from the search's seed: a batch is drawn once
all before it have ended, whatever the order in which their trials did. So a sweep that was killed
goes on as if nothing had happened, and nothing of Optuna's is stored.

Successive halving: Jamieson & Talwalkar 2016. All settings of a batch train until their first
evaluation that counts; the best 1/factor go on to factor times the steps, and so on.
"""

import decimal
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jdqn.config import ConfigError
from jdqn.tools.sweeps import folders
from jdqn.tools.sweeps.attempt import Job, folder_of, result_of
from jdqn.tools.sweeps.plan import Plan, Trial, in_words
from jdqn.tools.sweeps.schema import Range, Search, Settings

Results = dict[str, dict[str, Any]]
WORST = -math.inf  # of what crashed or was refused


class Setting(NamedTuple):
    """What was drawn, and its trials, one for each seed."""

    drawn: dict[str, Any]  # by Optuna: of choices the place
    settings: Settings
    trials: tuple[Trial, ...]  # none: it is no configuration
    is_repeat: bool  # drawn before: what was drawn then is trained


class Study:
    """The settings of one game and agent."""

    def __init__(self, plan: Plan, game: str, agent: str):
        """Draws the first batch. Raises ConfigError where Optuna is missing."""
        assert plan.search is not None
        self.game = game
        self.agent = agent
        self._plan = plan
        self._search: Search = plan.search
        self._batches: list[list[Setting]] = []
        self._told: list[Any] = []  # what Optuna is told of batches that have ended
        self._pruned: dict[tuple[str, ...], int] = {}  # steps at which, by the names of trials
        self.refused: list[str] = []  # what was drawn and is no configuration, a sentence each
        self._draw()

    def jobs(self, results: Results) -> list[Job]:
        """What is to be run now; none: the search has ended.

        Trials that are not among the best are given a result, in `results` and on the disk.
        """
        while True:
            self._read(results)
            jobs = self._open(self._batches[-1], results)
            if jobs or sum(map(len, self._batches)) == self._search.settings:
                return jobs
            self._told += [self._tell(setting, results) for setting in self._batches[-1]]
            self._draw()

    def best(self, results: Results) -> list[tuple[float, Setting]]:
        """Settings whose trials have all been done with their score, the best first."""
        found = []
        for setting in self.settings():
            if setting.is_repeat:
                continue
            scores = [_score(results.get(trial.name), folders.DONE) for trial in setting.trials]
            known = [score for score in scores if score is not None]
            if known and len(known) == len(scores):
                found.append((sum(known) / len(known), setting))
        return sorted(found, key=lambda pair: -pair[0])

    def _read(self, results: Results) -> None:
        """Adds what a sweep before has written of the newest batch, but for what was pruned.

        That is seen again, or the search was another one.
        """
        for setting in self._batches[-1]:
            for trial in setting.trials:
                known = trial.name in results
                folder = folder_of(self._plan.directory, trial)
                if not known and (result := folder.final_result()) is not None:
                    results[trial.name] = result

    def settings(self) -> Iterable[Setting]:
        """All that were drawn, in order."""
        return (setting for batch in self._batches for setting in batch)

    # --- A batch --------------------------------------------------------------------------------

    def rungs(self) -> list[int]:
        """Agent steps at which settings are compared, the end left out."""
        factor = self._search.halving_factor
        if factor is None:
            return []
        train = self._plan.config(self.game, self.agent, {}).train
        steps = self._search.first_steps or train.eval_period_steps
        found = []
        while steps < train.steps:
            found.append(steps)
            steps *= factor
        return found

    def _open(self, batch: Sequence[Setting], results: Results) -> list[Job]:
        """What is to be run of a batch now."""
        alive = [setting for setting in batch if setting.trials and not setting.is_repeat]
        for steps in self.rungs():
            jobs = [
                Job(trial, steps)
                for setting in alive
                for trial in setting.trials
                if self._value(trial, steps, results) is None
            ]
            if jobs:
                return jobs
            alive = self._halved(alive, steps, results)
        trials = [trial for setting in alive for trial in setting.trials]
        return [Job(trial) for trial in trials if trial.name not in results]

    def _halved(self, alive: list[Setting], steps: int, results: Results) -> list[Setting]:
        """The best of some settings; the trials of the others are pruned."""
        factor = self._search.halving_factor
        assert factor is not None
        means = [self._mean(setting, steps, results) for setting in alive]
        order = sorted(range(len(alive)), key=lambda i: (-means[i], i))
        kept = {*order[: max(len(alive) // factor, 1)]}
        for setting in (setting for i, setting in enumerate(alive) if i not in kept):
            self._pruned[_names(setting)] = steps
            for trial in setting.trials:
                if trial.name not in results:
                    results[trial.name] = self._prune(trial, steps)
        return [setting for i, setting in enumerate(alive) if i in kept]

    def _prune(self, trial: Trial, steps: int) -> dict[str, Any]:
        folder = folder_of(self._plan.directory, trial)
        sentence = f"not among the best at {steps:,} steps"
        result = result_of(trial, folder, folders.PRUNED, sentence)
        folder.write_result(folder.newest(), result)
        return folder.result() or result

    def _value(self, trial: Trial, steps: int, results: Results) -> float | None:
        """A trial's first evaluation at or after some steps; None: it has not come there."""
        evaluations = folder_of(self._plan.directory, trial).standing().evaluations
        reached = [at for at in evaluations if at >= steps]
        if reached:
            return evaluations[min(reached)]
        if (result := results.get(trial.name)) is None:
            return None
        # It ended before: at its goal, or not as it should.
        score = _score(result, folders.DONE)
        return WORST if score is None else score

    def _mean(self, setting: Setting, steps: int, results: Results) -> float:
        values = [self._value(trial, steps, results) for trial in setting.trials]
        return sum(WORST if value is None else value for value in values) / len(values)

    # --- Optuna ---------------------------------------------------------------------------------

    def _draw(self) -> None:
        """The next batch."""
        optuna = _optuna()
        search = self._search
        drawn = sum(map(len, self._batches))
        count = min(search.batch, search.settings - drawn)
        words = (str(search.seed), self.game, self.agent, str(len(self._batches)))
        digest = hashlib.sha256("\0".join(words).encode()).digest()
        seed = int.from_bytes(digest[:4], "big")
        samplers = {"random": optuna.samplers.RandomSampler, "tpe": optuna.samplers.TPESampler}
        study = optuna.create_study(
            direction="maximize", sampler=samplers[search.method](seed=seed)
        )
        study.add_trials(self._told)
        ranges = self._plan.ranges
        distributions = {name: distribution(range_) for name, range_ in ranges.items()}
        batch: list[Setting] = []
        for _ in range(count):
            params = study.ask(distributions).params
            settings = {name: value_of(ranges[name], params[name]) for name in ranges}
            try:
                trials = self._plan.trials_of(self.game, self.agent, settings)
            except ConfigError as error:
                self.refused.append(str(error))
                trials = []
            known = {name for one in [*self.settings(), *batch] for name in _names(one)}
            is_repeat = any(trial.name in known for trial in trials)
            batch.append(Setting(params, settings, tuple(trials), is_repeat))
        self._batches.append(batch)

    def _tell(self, setting: Setting, results: Results) -> Any:
        """What Optuna is told of a setting."""
        optuna = _optuna()
        states = optuna.trial.TrialState
        ranges = self._plan.ranges
        told: dict[str, Any] = {
            "params": setting.drawn,
            "distributions": {name: distribution(range_) for name, range_ in ranges.items()},
        }
        ends = [results.get(trial.name, {}) for trial in setting.trials]
        failed = [end for end in ends if end.get("status") not in (folders.DONE, folders.PRUNED)]
        last = self._pruned.get(_names(setting))
        if ends and not failed and last is not None:  # though it may have come to its end meanwhile
            values = {n: self._mean(setting, n, results) for n in self.rungs() if n <= last}
            return optuna.trial.create_trial(
                state=states.PRUNED, intermediate_values=values, **told
            )
        scores = [_score(end, folders.DONE) for end in ends]
        known = [score for score in scores if score is not None]
        if known and len(known) == len(scores):
            value = sum(known) / len(known)
            return optuna.trial.create_trial(state=states.COMPLETE, value=value, **told)
        return optuna.trial.create_trial(state=states.FAIL, **told)


def _names(setting: Setting) -> tuple[str, ...]:
    """What the trials of a setting are called: those of the same one are the same."""
    return tuple(trial.name for trial in setting.trials)


def _score(result: Mapping[str, Any] | None, status: str) -> float | None:
    """What a trial scored that has ended so."""
    return result["score"] if result and result["status"] == status else None


def distribution(range_: Range) -> Any:
    """What Optuna draws from; of choices their place, for they may be lists."""
    distributions = _optuna().distributions
    if range_.choices is not None:
        return distributions.CategoricalDistribution([*range(len(range_.choices))])
    low = range_.low
    high = range_.high
    step = range_.step
    assert low is not None
    assert high is not None
    if step is not None:  # where the last one ends; as floats, three steps of 0.1 are above 0.3
        exact_low, exact_high, exact_step = (decimal.Decimal(str(x)) for x in (low, high, step))
        last = exact_low + (exact_high - exact_low) // exact_step * exact_step
        high = float(last) if isinstance(low + step, float) else int(last)
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=range_.log, step=int(step or 1))
    return distributions.FloatDistribution(low, high, log=range_.log, step=step)


def value_of(range_: Range, drawn: Any) -> Any:
    """What a drawn value stands for."""
    return drawn if range_.choices is None else range_.choices[drawn]


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "[search]: Optuna is not installed; pip install -e '.[sweep]' in the checkout of jdqn"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


class Studies:
    """The source of a sweep that looks for settings."""

    def __init__(self, plan: Plan):
        """Raises ConfigError where Optuna is missing."""
        self.studies = [Study(plan, game, agent) for game, agent in plan.pairs()]

    @property
    def refused(self) -> list[str]:
        """What was drawn and is no configuration, a sentence each."""
        return [sentence for study in self.studies for sentence in study.refused]

    @property
    def trials(self) -> list[Trial]:
        """Of all that has been drawn, each once."""
        settings = [setting for study in self.studies for setting in study.settings()]
        return [trial for one in settings if not one.is_repeat for trial in one.trials]

    def jobs(self, results: Results) -> list[Job]:
        """What is to be run now, of every game and agent; see `loop.Source`."""
        return [job for study in self.studies for job in study.jobs(results)]

    def best(self, results: Results) -> list[str]:
        """The best setting of each game and agent, in words."""
        found = []
        for study in self.studies:
            for score, setting in study.best(results)[:1]:
                values = in_words(setting.settings)
                seeds = f", mean of {len(setting.trials)} seeds" * (len(setting.trials) > 1)
                found.append(f"{study.game} {score:.2f} by {study.agent}{values}{seeds}")
        return found
