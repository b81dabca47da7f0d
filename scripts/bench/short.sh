#!/usr/bin/env bash
# The short benchmarks, one after the other (`make bench`). Each prints ratios against an alternative named in its first
# lines. Models of published shapes with random weights and BM25's candidates of DL19 (the first DEPTH) come from
# R2LLM_SHARED where it is; else MODEL (a folder or a hub id) is timed on the embedded collection, and left out where it
# is not at hand.
#
#   MODEL=google/flan-t5-small CONFIG=quickstart.yaml QUERIES=1 scripts/bench/short.sh
#   LLM_RANKERS=../llm-rankers LLM_RANKERS_PYTHON=../llm-rankers/.venv/bin/python scripts/bench/short.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-.venv/bin/python}
shared=${R2LLM_SHARED:-../shared}
queries=${QUERIES:-1}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

echo "== what the toolkit costs beside the model"
"$python" scripts/bench/overhead.py --queries 200 --ledger-rows 100000
echo "== many queries, and shards"
"$python" scripts/bench/scale.py --queries 200 --candidates 100 --shards 4 --shard-queries 100
echo "== through a server"
"$python" scripts/bench/server.py --asks 2000

models=(${MODEL:-})
config=${CONFIG:-quickstart.yaml}
if [ -z "${MODEL:-}" ] && [ -d "$shared/tools" ]; then
  for shape in flan-t5-small qwen2-54m; do
    "$python" "$shared/tools/make_speed_model.py" "$shape" "$folder/$shape" >/dev/null 2>&1
    models+=("$folder/$shape")
  done
  data=$(cd "$shared/data/dl19" && pwd)
  config=$folder/dl19.yaml
  printf 'dataset: {candidates: "%s", qrels: "%s"}\nfirst_stage: {depth: %s}\n' \
    "$data/candidates.json" "$data/qrels.dl19-passage.txt" "${DEPTH:-15}" >"$config"
fi
for model in "${models[@]}"; do
  echo "== asks a second, $(basename "$model")"
  "$python" scripts/bench/engine.py --model "$model" --config "$config" --queries "$queries" --dtype float32
  if [ -n "${LLM_RANKERS:-}" ] && grep -qE '"model_type": "(t5|llama)"' "$model/config.json"; then
    "$python" scripts/bench/llm_rankers.py --llm-rankers "$LLM_RANKERS" --python "${LLM_RANKERS_PYTHON:-python3}" \
      --model "$model" --config "$config" --queries "$queries"
  fi
done
[ "${#models[@]}" -eq 0 ] ||
  "$python" scripts/bench/commands.py --model "${models[0]}" --config "$config" --queries "$queries" --method setwise.heapsort
[ "${#models[@]}" -gt 0 ] || echo "no model at hand: name one with MODEL=..."
