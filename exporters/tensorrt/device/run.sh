#!/usr/bin/env bash
# Builds, verifies and measures on this device: bash run.sh [build|verify|measure ...] [--help].
# AMP_EXPORT_PYTHON names the Python that has tensorrt or onnxruntime, where that is not python3.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python="${AMP_EXPORT_PYTHON:-python3}"
if ! command -v "$python" >/dev/null; then
    echo "Error: there is no $python here." >&2
    echo "Install Python 3.8 or later with numpy, or name it: AMP_EXPORT_PYTHON=/path/to/python3 bash run.sh." >&2
    exit 2
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 8))'; then
    echo "Error: $("$python" --version) is too old: Python 3.8 or later is needed." >&2
    echo "Name another: AMP_EXPORT_PYTHON=/path/to/python3 bash run.sh." >&2
    exit 2
fi
if ! "$python" -c 'import numpy' 2>/dev/null; then
    echo "Error: $python has no numpy." >&2
    echo "Install it (sudo apt install python3-numpy), or name a Python that has it in AMP_EXPORT_PYTHON." >&2
    exit 2
fi
if [[ "${1:-}" == attach ]]; then
    shift
    exec "$python" -m device.attach "$@"
fi
exec "$python" -m device.run "$@"
