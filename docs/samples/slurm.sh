#!/usr/bin/env bash
# Each task of the array is one trial of minatar.toml, which has 140 (python -m jdqn.sweep minatar
# --dry-run counts them), 20 at a time. Before its time is up a task saves a checkpoint, goes back
# into the queue, and then goes on. Submit it from a folder that all nodes share: sbatch slurm.sh
# To end it: scancel JOB. Tasks save a checkpoint then too, in the seconds that KillWait gives them,
# and do not go back; sbatch slurm.sh goes on.
#SBATCH --job-name=minatar
#SBATCH --array=0-139%20
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append

# jdqn must be importable on the nodes: activate its environment here, for instance
# source ~/jdqn/.venv/bin/activate

save() {
  kill -TERM $!
  wait $!
}
trap 'save; scontrol requeue "$SLURM_JOB_ID"' USR1 # its time is nearly up
trap save TERM                                     # it is cancelled

python -m jdqn.sweep minatar --index "$SLURM_ARRAY_TASK_ID" &
wait $!
