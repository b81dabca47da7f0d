#!/usr/bin/env bash
# The wheel and the sdist, built from this checkout, each installed in an empty environment and used outside of it.
#
#   scripts/check_wheel.sh [PYTHON]      # any Python that has pip: build and uv are installed in a folder of their own
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(mktemp -d)
trap 'rm -r "$home"' EXIT
unset PYTHONPATH
"${1:-python3}" -m venv "$home/tools"
"$home/tools/bin/pip" install --quiet --disable-pip-version-check build uv
mkdir "$home/source" "$home/work"
git archive HEAD | tar x -C "$home/source"
"$home/tools/bin/python" -m build --outdir "$home/dist" "$home/source" >"$home/build.log" 2>&1 || { cat "$home/build.log"; exit 1; }
uv() { "$home/tools/bin/uv" "$@"; }
uv venv --quiet --python "$home/tools/bin/python" "$home/empty"
r2llm=$home/empty/bin/r2llm
cd "$home/work"
for built in "$home"/dist/*.whl "$home"/dist/*.tar.gz; do
  uv pip install --quiet --python "$home/empty/bin/python" --constraint "$home/source/constraints.txt" \
    --reinstall-package r2llm "$built"
  "$r2llm" rerank --config quickstart.yaml --quiet --output run | grep -q "^nDCG@10.0.5373.0.8663"
  "$r2llm" report run -o report.html --quiet >report.txt
  "$r2llm" list methods | grep -q "^setwise.heapsort"
  "$r2llm" schema | cmp - "$home/source/configs/schema.json"
  _R2LLM_COMPLETE=complete_bash COMP_WORDS="r2llm rerank --config quick" COMP_CWORD=3 "$r2llm" | grep -qx quickstart.yaml
  "$r2llm" pack run -o run.zip --quiet >pack.txt && "$r2llm" verify run.zip --quiet >verified.txt
  "$home/empty/bin/python" -c 'import r2llm; assert r2llm.load_run("run").query_costs()["asks"].sum() == 1052'
  echo "$(basename "$built"): installs and works in an empty environment"
  rm -r run run.zip report.html
done
