#!/usr/bin/env bash
# Run the fast tests with the lowest versions that pyproject.toml admits: bash ci/lowest.sh [PYTEST_ARGUMENT...]
# The extras are those that most of these tests need. AMP_EXPORT_TORCH, below, decides about torch.
# AMP_EXPORT_ENV=DIR keeps the environment in DIR. PYTHON names the interpreter for it; default: python3.
# AMP_EXPORT_TORCH names the torch to install, such as "torch==2.9.*" where an index has CPU builds of it. By default,
# torch is not the lowest: the package index has CUDA builds of old versions only.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
environment="${AMP_EXPORT_ENV:-$scratch/environment}"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 PIP_COMPILE=0 PIP_CONSTRAINT="$PWD/ci/constraints.txt"
# what is imported is compiled once, not by each process
unset PYTHONDONTWRITEBYTECODE

[[ -x "$environment/bin/python" ]] || "${PYTHON:-python3}" -m venv "$environment"
export PATH="$environment/bin:$PATH"
python -m pip install uv

extras=()
for extra in onnxruntime trace demo datasets report test; do extras+=(--extra "$extra"); done
uv pip compile --quiet --no-header --no-annotate --resolution lowest-direct --python "$environment/bin/python" \
    "${extras[@]}" pyproject.toml >"$scratch/all.txt"
# pip chooses torch, and a CPU build needs none of the other packages
grep -vE '^(torch|triton|nvidia-[a-z-]*cu[0-9]*)==' "$scratch/all.txt" >"$scratch/lowest.txt"
cat "$scratch/lowest.txt"

python -m pip install --requirement "$scratch/lowest.txt" "${AMP_EXPORT_TORCH:-torch}"
python -m pip install --no-deps --editable .
python -m pytest --numprocesses "${AMP_EXPORT_TEST_PROCESSES:-2}" --dist worksteal --quiet -m "not slow" "$@"
