"""Commands that run on a device: fixed commands for its `sh`, whose parameter `$1` is the SHA-256 of a bundle.

Each is passed to `sh -c` in single quotes and contains neither single quotes nor newlines, so that any login shell
passes it on unchanged. Output lines meant for amp-export begin with `amp-export`. The commands write errors to stdout
too: stderr carries only ssh's own messages.
"""

from __future__ import annotations

CACHE = ".cache/amp-export"
"""Folder of the bundles in the user's home: one folder each, with `bundle.tar.gz` until it is unpacked into
`bundle`."""

ARCHIVE = "bundle.tar.gz"

_ENTER = f'exec 2>&1; d="$HOME/{CACHE}/$1"; mkdir -p "$d" && cd "$d" || exit 2; '

_PROBE_PYTHON = (
    "import sys, importlib.util as u; print(sys.argv[1], sys.version_info[0], sys.version_info[1]); "
    "[print(sys.argv[1], m) for m in sys.argv[2:] if u.find_spec(m)]"
)

PREPARE = (
    _ENTER
    + 'IFS= read -r p; case "$p" in [~]/*) p="$HOME/${p#??}";; esac; echo "$p" > python; cat > request.json; '
    + f'[ -d bundle ] && echo "amp-export unpacked" || : >> {ARCHIVE}; '
    + f'[ -f {ARCHIVE} ] && echo "amp-export partial $(wc -c < {ARCHIVE})"; '
    + 'df -Pk . | { read -r h; read -r f b u a r; echo "amp-export free $a"; }; '
    + 'command -v "$p" > /dev/null || { echo "amp-export no-python"; exit 0; }; '
    + f'"$p" -c "{_PROBE_PYTHON}" amp-export numpy tensorrt onnxruntime || :'
)
"""Reads the path of Python and, on the lines after, the request. Reports the state of the bundle, Python's version and
packages, and the free disk space."""

EMPTY = _ENTER + f": > {ARCHIVE}"
"""Empties the archive."""

WATCH = _ENTER + f"while wc -c < {ARCHIVE}; do sleep 1; done"
"""Prints the size of the archive once per second; ends when the connection closes."""

UNPACK = (
    _ENTER
    + "[ -d bundle ] && exit 0; "
    + f's=$(sha256sum < {ARCHIVE}) && [ "${{s%% *}}" = "$1" ] || '
    + f'{{ rm -f {ARCHIVE}; echo "amp-export damaged"; exit 0; }}; '
    + "rm -rf unpacking && mkdir unpacking && "
    + f"tar -xzf {ARCHIVE} -C unpacking --strip-components=1 && mv unpacking bundle && rm {ARCHIVE}"
)
"""Unpacks the archive if its SHA-256 is right, and removes it."""

ATTACH = _ENTER + 'cd bundle && AMP_EXPORT_PYTHON="$(cat ../python)" exec bash run.sh attach ../request.json'
"""Starts the run or attaches to the current one, and prints its output until it ends."""

TAKEN = _ENTER + "rm -f bundle/work/state.json"
"""Marks the run's report as fetched, so that the next request measures again."""
