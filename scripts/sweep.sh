#!/usr/bin/env bash
# Rerank with each of several configs and print a table at the end; one that fails stops nothing.
#
#   scripts/sweep.sh [-o "OPTIONS"] CONFIG...
#   scripts/sweep.sh -o "--queries 10" $(r2llm list cells --config grids/setwise-paper --only dataset=dl19)
#
# OPTIONS go to every `r2llm rerank`. What each one printed is kept in runs/sweep-logs/. The exit code is 1 if any failed.
set -u

options=""
if [ "${1:-}" = "-o" ]; then
  options=$2
  shift 2
fi
[ $# -gt 0 ] || { sed -n '2,7p' "$0" >&2; exit 2; }

logs=runs/sweep-logs
mkdir -p "$logs"
failed=0
table=$(mktemp)
printf 'config\tstatus\tqueries\tmetric\tvalue\tasks/query\trun\n' >"$table"
for config in "$@"; do
  log="$logs/$(printf '%s' "${config%.yaml}" | tr '/' '-')"
  # shellcheck disable=SC2086 # OPTIONS are words
  if r2llm rerank --config "$config" --json --quiet $options >"$log.json" 2>"$log.err"; then
    python3 - "$config" "$log.json" >>"$table" <<'PYTHON'
import json, sys
config, path = sys.argv[1:]
run = json.load(open(path))
metric, value = next(iter(run["metrics"].items()), ("none", float("nan")))
label = f"{metric} (simulated)" if run["simulated"] else metric
print(config, "ok", run["queries"], label, f"{value:.4f}", f"{run['costs']['asks']['mean']:.1f}", run["run_dir"], sep="\t")
PYTHON
  else
    status=$?
    failed=1
    printf '%s\tfailed (%s)\t-\t-\t-\t-\t%s\n' "$config" "$status" "$(tail -n 1 "$log.err")" >>"$table"
  fi
done
if command -v column >/dev/null; then column -t -s "$(printf '\t')" "$table"; else cat "$table"; fi
rm -f "$table"
exit "$failed"
