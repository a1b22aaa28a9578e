#!/usr/bin/env bash
# Builds the TensorRT engines with this device's trtexec: the first step of run.sh.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" build --runtime tensorrt "$@"
