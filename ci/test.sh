#!/usr/bin/env bash
# Everything that CI checks. `bash ci/test.sh --help` describes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'END'
Usage: bash ci/test.sh [--fast]

Without options, runs everything that CI runs, in an environment of its own: builds the packages, checks style, types,
imports and the site, runs all tests with coverage, and meanwhile runs the quickstart from the source package and the
commands of the README, and builds an engine for a GPU that is not present.

Options:
  --fast  Check style, types and imports, and run the tests that are not slow. Installs nothing: it uses the
          environment in AMP_EXPORT_ENV, or the active one, with the extra `dev`.
  --help  Show this text.

Environment variables:
  AMP_EXPORT_ENV             directory of the environment, which is kept for the next run; default: a temporary one
  AMP_EXPORT_EXTRAS          further extras to install and test, such as executorch, whose exports take minutes
  AMP_EXPORT_TEST_PROCESSES  number of test processes; default: one more than CPU cores, since tests wait for other
                             processes and for one another
  PYTHON                     interpreter for new environments; default: python3
END
}

fast=no
for argument in "$@"; do
    case "$argument" in
        --fast) fast=yes ;;
        --help | -h) usage && exit ;;
        *) usage >&2 && exit 2 ;;
    esac
done

scratch="$(mktemp -d)"
# a job may end by itself between being listed and being killed
trap 'jobs -pr | xargs --no-run-if-empty kill || true; rm -rf "$scratch"' EXIT

step() { printf '\n== %s (after %d s)\n' "$1" "$SECONDS"; }

# what takes long runs beside the steps that follow; `finish` shows what it printed, and fails as it did
declare -A processes
beside() {
    "${@:2}" >"$scratch/$1.log" 2>&1 &
    processes[$1]=$!
}
finish() {
    local code=0
    wait "${processes[$1]}" || code=$?
    cat "$scratch/$1.log"
    return "$code"
}

check_source() {
    ruff check .
    ruff format --check .
    shellcheck ci/*.sh examples/*.sh exporters/tensorrt/device/*.sh
    lint-imports
    python ci/architecture.py --check
    mypy
}
test_processes="${AMP_EXPORT_TEST_PROCESSES:-$(($(getconf _NPROCESSORS_ONLN) + 1))}"
pytest=(-m pytest --numprocesses "$test_processes" --dist worksteal --quiet)

if [[ "$fast" == yes ]]; then
    [[ -z "${AMP_EXPORT_ENV:-}" ]] || export PATH="$AMP_EXPORT_ENV/bin:$PATH"
    beside source check_source
    step "fast tests"
    python "${pytest[@]}" -m "not slow"
    step "style, types and imports"
    finish source
    step "done"
    exit
fi

environment="${AMP_EXPORT_ENV:-$scratch/environment}" quickstart="$scratch/quickstart"
transformers_4="$scratch/transformers-4"

# what some tests take from the system comes meanwhile; without it they are skipped, and say so
find_command() { PATH="$PATH:/usr/sbin" command -v "$@" >/dev/null; }
missing=()
find_command sshd || missing+=(openssh-server openssh-client)
find_command chromium || find_command google-chrome || missing+=(chromium)
install_missing() {
    if ((${#missing[@]})) && [[ "$(id -u)" == 0 ]] && find_command apt-get; then
        (apt-get update && apt-get install --yes --no-install-recommends "${missing[@]}") >"$scratch/apt.log" 2>&1 ||
            echo "${missing[*]} could not be installed; tests that need them are skipped." >&2
    fi
}
beside system install_missing

export AMP_EXPORT_NODE_MODULES="$scratch/js/node_modules"
install_transformers_js() {
    # where no registry answers, npm would try for minutes
    ! find_command node || timeout 120 npm install --silent --ignore-scripts --no-audit --no-fund \
        --prefix "$scratch/js" @huggingface/transformers@4.3.2 || echo "transformers.js could not be installed; its test is skipped." >&2
}
beside transformers_js install_transformers_js

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1 PIP_CONSTRAINT="$PWD/ci/constraints.txt"
# Python compiles what is imported, which is a small part of what is installed, and keeps it for the many processes of
# tests: without that, torch and transformers take 14 s of each instead of 6 s
export PIP_COMPILE=0
unset PYTHONDONTWRITEBYTECODE

step "source package and wheel"
PYTHON="$(command -v "${PYTHON:-python3}")"
export PYTHON PATH="$environment/bin:$PATH"
[[ -x "$environment/bin/python" ]] || "$PYTHON" -m venv "$environment"
python -m pip install build twine
python ci/package.py "$scratch/packages"

install_and_check_source() {
    python -m pip install --editable ".[dev${AMP_EXPORT_EXTRAS:+,$AMP_EXPORT_EXTRAS}]"
    # nvidia-ml-py asks the driver which GPU is there, and is a file of Python
    if PIP_QUIET=0 python -m pip list --format=freeze | grep -v '^nvidia-ml-py=' | grep -iE '^(nvidia-|triton=)'; then
        echo "CUDA packages were installed, but CI tests the CPU build." >&2
        echo "Install the CPU build of torch into $environment first." >&2
        return 1
    fi
    # what is written is loaded by the transformers that deployments still have, and by what needs it, too
    python -m pip install --no-deps --target "$transformers_4" transformers==4.57.6 tokenizers==0.22.1 \
        huggingface_hub==0.36.0 optimum-onnx==0.1.0 optimum==2.1.0
    check_source
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$scratch/site"
}
beside source install_and_check_source

take_the_quickstart() {
    # beside the tests there is no free core, where threads spin while they wait for one another: scoring took 8 times as long
    export OMP_NUM_THREADS=1
    # little text and few rounds, since only the way is checked here; with half of the text nothing could be fitted
    AMP_EXPORT_OPTIONS="--fitting-tokens 1024 --threads 1 --rounds 2 --time-limit 0" AMP_EXPORT_ENV="$quickstart" \
        AMP_EXPORT_INSTALL="$(echo "$scratch"/packages/*.tar.gz)[onnxruntime,demo,report]" \
        bash examples/quickstart.sh "$scratch/result"
    # optimum-cli finds its plug-ins there
    ls "$quickstart"/lib/python*/site-packages/optimum/commands/register/register_amp_export.py
    # what follows takes the environment of tests, one core for most of its time, and the result
    until [[ -e "$scratch/installed" ]]; do sleep 1; done
    (cd "$scratch/result" && python "$OLDPWD/ci/readme_commands.py" "$OLDPWD/README.md")
    python ci/engine.py "$scratch/result/out"
}
beside quickstart take_the_quickstart

step "style, types, imports and site"
finish source
touch "$scratch/installed"

step "tests, with coverage"
finish system
finish transformers_js
mkdir "$scratch/families"
# slipcover is imported before pytest, which warns of it
export AMP_EXPORT_TRANSFORMERS_4="$transformers_4"
AMP_EXPORT_SUPPORT_ROWS="$scratch/families" python -m slipcover --json --out "$scratch/coverage.json" "${pytest[@]}" \
    -W "ignore:Module already imported:pytest.PytestAssertRewriteWarning" --durations=25
python ci/support.py --check --rows "$scratch/families"

step "coverage"
# checked here: with --fail-under above, slipcover 1.1.0 shows the coverage of the first process only
python -m slipcover --merge "$scratch/coverage.json" --out "$scratch/coverage-merged.json" --fail-under 91

step "quickstart, from the source package, outside the checkout; commands of the README; an engine for a GPU not here"
finish quickstart

step "done"
