#!/usr/bin/env bash
# From nothing to a pruned, exported, proved and measured model: bash examples/quickstart.sh [WHERE]
# AMP_EXPORT_ENV=DIR says where the virtual environment goes; by default it is .venv in this repository.
set -euo pipefail
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
where="${1:-$project}"
environment="${AMP_EXPORT_ENV:-$project/.venv}"

mkdir -p "$where"
[[ -x "$environment/bin/python" ]] || "${PYTHON:-python3}" -m venv "$environment"
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check "${project}[onnxruntime,demo,report]"
export PATH="$environment/bin:$PATH"
cd "$where"

# prunes a tenth of a real 135M Llama away, exports it, checks the export, and measures it against the dense model
amp-export --to onnx --model demo --ratio 0.1 --output out/ --overwrite

# the same prompt, finished by the dense and by the pruned graph
amp-export export --to onnx --model demo --output out-dense/ --overwrite
python "$project/examples/complete.py" out-dense/onnx out/onnx
