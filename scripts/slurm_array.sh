#!/usr/bin/env bash
# A job array: one experiment in shards, one a task, or a list of experiments, one a task.
#
#   job=$(sbatch --parsable --array=1-16 scripts/slurm_array.sh 16 --config dl19-setwise.yaml)
#   sbatch --dependency=afterok:"$job" --wrap 'r2llm merge --config dl19-setwise.yaml'
#
#   r2llm list cells --config grids/setwise-paper --only dataset=dl19 >experiments.txt
#   sbatch --array=1-"$(wc -l <experiments.txt)" scripts/slurm_array.sh experiments.txt
#
# A task that is killed or requeued continues where it was; to run shard 3 alone again: sbatch --array=3 … 16 --config ….
# Without Slurm: SLURM_ARRAY_TASK_ID=3 scripts/slurm_array.sh …
#SBATCH --job-name=r2llm
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=r2llm-%A_%a.log
set -eu

what=${1:?the number of shards, or a file that lists configs, one a line}
shift
task=${SLURM_ARRAY_TASK_ID:?set by Slurm, or by you}
case $what in
*[!0-9]*) ;;
*) exec r2llm rerank --shard "$task/$what" "$@" ;;
esac
config=$(sed -n "${task}p" "$what")
[ -n "$config" ] || { echo "$what has no line $task" >&2; exit 2; }
exec r2llm rerank --config "$config" "$@"
