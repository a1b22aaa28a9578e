#!/usr/bin/env bash
# Check parity, thresholds and a baseline in CI: bash parity.sh. Copy this file; docs/ci.md describes it.
# Environment variables, all optional:
#   AMP_EXPORT_INSTALL          what to pip install first, such as "amp-export[onnxruntime]"
#   AMP_EXPORT_MODEL            checkpoint to export; without it, the output directory must exist
#   AMP_EXPORT_REVISION         branch, tag or commit of it, if it is on the hub
#   AMP_EXPORT_RATIO            share of parameters to prune before exporting
#   AMP_EXPORT_CALIBRATION      file of prompts to score on
#   AMP_EXPORT_OUTPUT           output directory; default: out
#   AMP_EXPORT_BENCHMARK        yes: measure the speedup over the dense model
#   AMP_EXPORT_THREADS          threads of the runtime
#   AMP_EXPORT_THRESHOLDS       TOML file with quality gates; default: amp-export.toml, if it exists
#   AMP_EXPORT_BASELINE         baseline file; numbers that got worse fail
#   AMP_EXPORT_UPDATE_BASELINE  yes: write the baseline instead of comparing
# Exit codes: 0 everything holds; 1 parity, a threshold or the baseline failed; 2 a step could not be done.
# Reports are in OUT/report.*.
set -euo pipefail

output="${AMP_EXPORT_OUTPUT:-out}"
model="${AMP_EXPORT_MODEL:-}"
revision="${AMP_EXPORT_REVISION:-}"
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

[[ -z "$ratio" || -n "$model" ]] || refuse "AMP_EXPORT_RATIO needs the AMP_EXPORT_MODEL to prune."
[[ -z "$revision" || -n "$model" ]] || refuse "AMP_EXPORT_REVISION needs the AMP_EXPORT_MODEL that it is of."

# ${name[@]+...} below: in the bash of macOS, expanding an empty array fails under set -u
source=(--model "$model") threads=() checks=()
[[ -z "$revision" ]] || source+=(--revision "$revision")
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
    amp-export prune "${source[@]}" --ratio "$ratio" ${calibration[@]+"${calibration[@]}"} --output "$output" --overwrite
    model="$output/pruned" source=(--model "$output/pruned")
fi

if [[ -n "$model" ]]; then
    step "export $model"
    # exporting OUT/pruned into OUT keeps the scores, plan and checkpoint that pruning wrote
    amp-export export "${source[@]}" --to onnx --output "$output" --overwrite
fi

if yes_or_no AMP_EXPORT_BENCHMARK; then
    step "benchmark $output"
    amp-export benchmark "$output" ${threads[@]+"${threads[@]}"}
fi

step "validate $output"
amp-export validate "$output" ${threads[@]+"${threads[@]}"} ${checks[@]+"${checks[@]}"}
