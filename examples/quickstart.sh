#!/usr/bin/env bash
# Install amp-export, then prune, export, validate and benchmark the demo model: bash examples/quickstart.sh [DIR]
# Results go to DIR (default: this repository), the virtual environment to AMP_EXPORT_ENV (default: .venv in it).
# AMP_EXPORT_INSTALL names what to install (default: this repository). AMP_EXPORT_OPTIONS are more options of the first
# command, such as "--fitting-tokens 2048", which takes less time and keeps less of the quality.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
where="${1:-$project}"
environment="${AMP_EXPORT_ENV:-$project/.venv}"

mkdir -p "$where"
[[ -x "$environment/bin/python" ]] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$project/ci/constraints.txt" "${AMP_EXPORT_INSTALL:-${project}[onnxruntime,demo,report]}"
export PATH="$environment/bin:$PATH"
cd "$where"

read -ra options <<<"${AMP_EXPORT_OPTIONS:-}"
# prune 10 % of a real 135M Llama, export it, check parity, and benchmark it against the dense model
amp-export --to onnx --model demo --ratio 0.1 --output out/ --overwrite "${options[@]}"

# ask the pruned graph and the dense model the same questions
amp-export generate out/ --against dense --chat --repetition-penalty 1.1 --new-tokens 60 \
    --prompt "Why is the sky blue?" --prompt "Write two sentences about the ocean."
