#!/usr/bin/env bash
# One experiment an array task, from a file that lists configs, one a line:
#
#   ls configs/setwise-paper/dl19/*.yaml >experiments.txt
#   sbatch --array=1-"$(wc -l <experiments.txt)" scripts/slurm_array.sh experiments.txt
#
# A task that is killed or requeued continues where it was. Without Slurm: SLURM_ARRAY_TASK_ID=3 scripts/slurm_array.sh …
#SBATCH --job-name=r2llm
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=r2llm-%A_%a.log
set -eu

list=${1:?a file that lists configs, one a line}
shift
config=$(sed -n "${SLURM_ARRAY_TASK_ID:?set by Slurm, or by you}p" "$list")
[ -n "$config" ] || { echo "$list has no line $SLURM_ARRAY_TASK_ID" >&2; exit 2; }
exec r2llm rerank --config "$config" "$@"
