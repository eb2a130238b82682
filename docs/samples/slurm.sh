#!/usr/bin/env bash
# Each task of the array is one trial of minatar.toml, which has 140 (python -m jdqn.sweep --dry-run
# counts them). Before its time is up a task saves a checkpoint, goes back into the queue, and then
# goes on. Submit it from a folder that all nodes share: sbatch slurm.sh
#SBATCH --job-name=minatar
#SBATCH --array=0-139
#SBATCH --cpus-per-task=1
#SBATCH --mem=2G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append

python -m jdqn.sweep minatar --index "$SLURM_ARRAY_TASK_ID" &
trial=$!

go_on_later() {
  kill -TERM "$trial"
  wait "$trial"
  scontrol requeue "$SLURM_JOB_ID"
}
trap go_on_later TERM
wait "$trial"
