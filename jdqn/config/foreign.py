"""Names that people bring from other packages, and what they are called here."""

from collections.abc import Iterable

from jdqn.config.schema import Config

_DECAY = "agent.epsilon_decay_steps"
_DECAY_OF_FRACTION = f"{_DECAY} (in agent steps)"
_HARD = "agent.target_period_steps (parameters are copied whole)"
# CleanRL, Stable-Baselines3 and its zoo, Dopamine, DQN Zoo, Tianshou. Fields that are called here
# as there, such as --learning-rate and --num-envs, are found without this table.
FOREIGN = {
    "adam_epsilon": "optimizer.eps",
    "additional_discount": "agent.discount",
    "algo": "agent",
    "alpha": "replay.priority_exponent",
    "base_dir": "run-dir",
    "beta": "replay.importance_exponent",
    "beta_final": "replay.importance_exponent_final",
    "buffer_size": "replay.capacity",
    "end_e": "agent.epsilon_end",
    "env_id": "env",
    "environment_name": "env",
    "epsilon": "agent.epsilon_end",
    "epsilon_decay_period": _DECAY,
    "epsilon_train": "agent.epsilon_end",
    "eps_test": "agent.epsilon_eval",
    "eps_train": "agent.epsilon_start",
    "eps_train_final": "agent.epsilon_end",
    "eval_freq": "train.eval_period_steps",
    "exploration_final_eps": "agent.epsilon_end",
    "exploration_fraction": _DECAY_OF_FRACTION,
    "exploration_initial_eps": "agent.epsilon_start",
    "frames_stack": "env.frame_stack",
    "game": "env",
    "game_name": "env",
    "gamma": "agent.discount",
    "hidden_sizes": "network.hidden",
    "learn_period": "train.update_period_steps",
    "learning_starts": "train.learning_starts_steps",
    "log_interval": "train.log_period_steps",
    "logdir": "run-dir",
    "lr": "optimizer.learning_rate",
    "max_grad_norm": "optimizer.max_gradient_norm",
    "max_steps": "steps",
    "memory_size": "replay.capacity",
    "min_replay_history": "train.learning_starts_steps",
    "munchausen_alpha": "agent.munchausen_scale",
    "n_atoms": "network.atoms",
    "n_envs": "env.num_envs",
    "n_eval_episodes": "train.eval_episodes",
    "n_quantiles": "network.atoms",
    "n_steps": "replay.n_step",
    "n_timesteps": "steps",
    "num_atoms": "network.atoms",
    "num_quantile_samples": "network.quantile_samples_acting",
    "num_quantiles": "network.atoms",
    "num_tau_prime_samples": "network.quantile_samples_target",
    "num_tau_samples": "network.quantile_samples",
    "num_timesteps": "steps",
    "num_train_frames": "steps (agent steps; on Atari 4 frames each)",
    "output_dir": "run-dir",
    "prioritized_replay_alpha": "replay.priority_exponent",
    "prioritized_replay_beta": "replay.importance_exponent",
    "prioritized_replay_eps": "replay.priority_epsilon",
    "quantile_embedding_dim": "network.quantile_cosines",
    "repeat_action_probability": "env.sticky_probability",
    "replay_capacity": "replay.capacity",
    "resume_path": "resume",
    "save_freq": "train.checkpoint_period_steps",
    "stack_size": "env.frame_stack",
    "start_e": "agent.epsilon_start",
    "step_per_collect": "env.num_envs",
    "sticky_actions": "env.sticky_probability",
    "target_network_frequency": "agent.target_period_steps",
    "target_network_update_period": "agent.target_period_steps",
    "target_update_freq": "agent.target_period_steps",
    "target_update_interval": "agent.target_period_steps",
    "target_update_period": "agent.target_period_steps",
    "task": "env",
    "tau": _HARD,
    "total_steps": "steps",
    "total_timesteps": "steps",
    "train_freq": "train.update_period_steps",
    "train_frequency": "train.update_period_steps",
    "training_num": "env.num_envs",
    "update_horizon": "replay.n_step",
    "update_period": "train.update_period_steps",
    "vmax": "network.v_max",
}
# What only one command has.
DOORS = {
    "--checkpoint": "evaluate",
    "--csv": "bench",
    "--dry-run": "sweep",
    "--episodes": "evaluate",
    "--index": "sweep",
    "--out": "report",
    "--peer": "bench",
    "--resume": "train",
    "--run-dir": "train",
    "--solved": "report",
}


def ours(name: str, known: Iterable[str]) -> str | None:
    """What an option of another package is called here, with a remark where it means less.

    Args:
      name: as it was typed, such as `--learning-rate`.
      known: the options of the command.

    Returns:
      Such as `--optimizer.learning_rate`; None: nothing that the command has.
    """
    plain = name.lstrip("-").replace("-", "_").lower()
    field = plain.rpartition(".")[2]
    homes = [
        f"{section}.{field}"
        for section, info in Config.model_fields.items()
        if field in getattr(info.annotation, "model_fields", {}) and field != "name"
    ]
    found = homes[0] if len(homes) == 1 else FOREIGN.get(plain, FOREIGN.get(field))
    if found is None or f"--{found.partition(' ')[0]}" not in known:
        return None
    return f"--{found}"


def elsewhere(name: str) -> str | None:
    """The command that has an option, where only one has it or it is a field."""
    if name in DOORS:
        return DOORS[name]
    section, _, field = name.removeprefix("--").partition(".")
    info = Config.model_fields.get(section)
    is_field = info is not None and field in getattr(info.annotation, "model_fields", {})
    return "train" if is_field else None
