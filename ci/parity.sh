#!/usr/bin/env bash
# Parity, thresholds and a baseline for the CI of a team: bash parity.sh. Copy it; docs/ci.md tells what it does.
# It is told by the environment what to do; what is not set is left out:
#   AMP_EXPORT_INSTALL          what pip installs first, such as "amp-export[onnxruntime]"
#   AMP_EXPORT_MODEL            a checkpoint to export; without it OUT must be there already
#   AMP_EXPORT_RATIO            share of parameters to prune first
#   AMP_EXPORT_CALIBRATION      prompts to score on
#   AMP_EXPORT_OUTPUT           OUT, by default out
#   AMP_EXPORT_BENCHMARK        yes: measure the gain over the dense model
#   AMP_EXPORT_THREADS          threads of the runtime
#   AMP_EXPORT_THRESHOLDS       what it must keep to; by default amp-export.toml, if that is there
#   AMP_EXPORT_BASELINE         numbers of an earlier run, which must not get worse
#   AMP_EXPORT_UPDATE_BASELINE  yes: write them instead
# Exit codes: 0 all holds; 1 parity, a threshold or the baseline fails; 2 it cannot be done. Reports are in OUT/report.*.
set -euo pipefail

output="${AMP_EXPORT_OUTPUT:-out}"
model="${AMP_EXPORT_MODEL:-}"
ratio="${AMP_EXPORT_RATIO:-}"
thresholds="${AMP_EXPORT_THRESHOLDS:-}"
[[ -z "$thresholds" && -f amp-export.toml ]] && thresholds=amp-export.toml

step() { printf '\n== %s\n' "$*"; }

refuse() {
    printf 'Error: %s\n' "$1" >&2
    exit 2
}

yes_or_no() {
    case "${!1:-no}" in
        yes | true) return 0 ;;
        no | false) return 1 ;;
        *) refuse "$1 is \"${!1}\"; it is yes or no." ;;
    esac
}

[[ -z "$ratio" || -n "$model" ]] || refuse "AMP_EXPORT_RATIO needs the AMP_EXPORT_MODEL that is to be pruned."

# below, ${name[@]+...} is for the bash of macOS, to which an empty array is not set
threads=() checks=()
[[ -z "${AMP_EXPORT_THREADS:-}" ]] || threads=(--threads "$AMP_EXPORT_THREADS")
[[ -z "$thresholds" ]] || checks+=(--thresholds "$thresholds")
[[ -z "${AMP_EXPORT_BASELINE:-}" ]] || checks+=(--baseline "$AMP_EXPORT_BASELINE")
if yes_or_no AMP_EXPORT_UPDATE_BASELINE; then checks+=(--update-baseline); fi

if [[ -n "${AMP_EXPORT_INSTALL:-}" ]]; then
    step "install $AMP_EXPORT_INSTALL"
    read -ra requirements <<<"$AMP_EXPORT_INSTALL"
    python -m pip install --quiet "${requirements[@]}"
fi

command -v amp-export >/dev/null || refuse "amp-export is not installed here. Install it, or set AMP_EXPORT_INSTALL."

if [[ -n "$ratio" ]]; then
    step "prune $ratio of $model"
    calibration=()
    [[ -z "${AMP_EXPORT_CALIBRATION:-}" ]] || calibration=(--calibration "$AMP_EXPORT_CALIBRATION")
    amp-export prune --model "$model" --ratio "$ratio" ${calibration[@]+"${calibration[@]}"} --output "$output" --overwrite
    model="$output/pruned"
fi

if [[ -n "$model" ]]; then
    step "export $model"
    # what pruning has just written stays there
    amp-export export --model "$model" --to onnx --output "$output" --overwrite
fi

if yes_or_no AMP_EXPORT_BENCHMARK; then
    step "benchmark $output"
    amp-export benchmark "$output" ${threads[@]+"${threads[@]}"}
fi

step "validate $output"
amp-export validate "$output" ${threads[@]+"${threads[@]}"} ${checks[@]+"${checks[@]}"}
