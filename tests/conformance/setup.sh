#!/usr/bin/env bash
# Installs the engines whose argument handling the tests ask, without GPU, compiler or dependencies: one virtual
# environment with torch for the CPU and the packages that the engines import, and beside it one folder per engine and
# version. What is already there is kept, what was interrupted is done again. About 2.6 GB in the end, of which 1.3 GB
# are torch and what it imports, and 2 GB more for a moment.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../.conformance}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$folder/base/bin/python
cpu_wheels=https://download.pytorch.org/whl/cpu
tries=3

say() { echo "conformance: $*"; }
fail() { say "$*" >&2; exit 1; }

check_machine() {
    [[ $(uname -s) == Linux ]] || fail "the engines' wheels are for Linux, and this is $(uname -s)"
    python3 -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$(grep ^torch== "$here/requirements/base.txt") has wheels for Python 3.11 to 3.13," \
            "and python3 is $(python3 -c 'import platform; print(platform.python_version())')"
}

# The mark of a finished part is a copy of what was asked for.
asked() { python3 -c 'import sys; print(sys.version)'; cat "$here/requirements/$1.txt"; }
finished() { [[ -f $folder/$1.done ]] && asked "$1" | cmp -s - "$folder/$1.done"; }

pip() {
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
        --retries 5 --timeout 60 "$@"
}

# Downloads break off; what is wrong with a requirement stays wrong, and is told the last time.
pip_again() {
    local try
    for ((try = 1; try < tries; try++)); do
        pip "$@" && return
        say "pip failed, once more in $((5 * try)) s"
        sleep $((5 * try))
    done
    pip "$@"
}

# Package indexes disagree on whether a plain torch is for CUDA, and only some have the build for the CPU.
install_torch() {
    local torch
    torch=$(grep ^torch== "$here/requirements/base.txt")
    pip "$torch+cpu" 2> /dev/null || pip --index-url "$cpu_wheels" "$torch+cpu" ||
        fail "no $torch+cpu for $(uname -m) and this Python, neither in pip's indexes nor on $cpu_wheels:" \
            "name one that has it with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS"
}

install() {
    local part=$1 began=$SECONDS
    if finished "$part"; then
        say "$part is there"
        return
    fi
    say "installing $part"
    rm -rf "${folder:?}/$part" "$folder/$part.done"
    if [[ $part == base ]]; then
        python3 -m venv "$folder/base"
        install_torch
        pip_again --requirement "$here/requirements/base.txt"
    else
        pip_again --requirement "$here/requirements/$part.txt" --target "$folder/$part" --upgrade
        # Compiled for CUDA: nothing here can load them.
        find "$folder/$part" -name '*.so' -delete
    fi
    asked "$part" > "$folder/$part.done.new"
    mv "$folder/$part.done.new" "$folder/$part.done"
    say "$part took $((SECONDS - began)) s, $(du -sh "$folder/$part" | cut -f1)"
}

check_machine
exec 9> "$folder/lock"
flock 9
parts=("${@:2}")
((${#parts[@]})) || parts=(base vllm vllm-0.19.0 vllm-0.11.0 sglang sglang-0.5.6 sglang-kt kernels)
for part in "${parts[@]}"; do
    install "$part"
done
say "$(du -sh "$folder" | cut -f1) in $folder, $SECONDS s"
