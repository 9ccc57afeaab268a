#!/usr/bin/env bash
#SBATCH --job-name=simkit
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#
# One case over many settings, a task of a SLURM array for each line of a file:
#
#   sbatch --array=0-3 scripts/slurm/array.sh simulate case.toml settings.txt results/array
#
# Line N (from 0) of settings.txt has the settings of task N, such as
# `ensemble.seed=7 system.parameters.prey_growth=0.6`; its results go to results/array/N.
#
# Two minutes before the time is up SLURM sends SIGUSR1 to this script, which hands it on:
# simkit finishes its segment, keeps it and ends with exit code 4. Then the task is queued
# again and goes on from there. The limit of simkit itself comes before, so that no segment is
# begun that would not be finished.
set -euo pipefail

if [ "$#" -ne 4 ]; then
  echo "usage: array.sh simulate|fit CASE SETTINGS FOLDER" >&2
  exit 2
fi
command=$1 case=$2 settings=$3 folder=$4
task=${SLURM_ARRAY_TASK_ID:?is set by sbatch --array}
limit=${SIMKIT_TIME_LIMIT:-3420}

line=$(sed -n "$((task + 1))p" "$settings")
if [ -z "$line" ]; then
  echo "$settings has no line for task $task" >&2
  exit 2
fi
overrides=()
for setting in $line; do
  overrides+=(--set "$setting")
done

# Each task is a run of its own: without this, simkit would look for others to share it with.
unset SLURM_STEP_NODELIST

simkit "$command" "$case" "${overrides[@]}" -o "$folder/$task" \
  --resume --overwrite --quiet --time-limit "$limit" &
child=$!

handed_on=""
trap 'handed_on=1; kill -USR1 "$child" 2>/dev/null || true' USR1
trap 'handed_on=1; kill -TERM "$child" 2>/dev/null || true' TERM
while true; do
  handed_on=""
  status=0
  wait "$child" || status=$?
  # A signal ends `wait`, not the run.
  [ -n "$handed_on" ] || break
done

if [ "$status" -eq 4 ] && command -v scontrol >/dev/null; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-}${SLURM_ARRAY_JOB_ID:+_}$task"
fi
exit "$status"
