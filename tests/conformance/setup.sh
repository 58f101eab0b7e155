#!/usr/bin/env bash
# Installs the three engines whose argument handling the tests ask, without GPU, compiler or dependencies: one virtual
# environment with torch for the CPU and the packages that the engines import, and beside it one folder per engine.
# What is already there is kept, what was interrupted is done again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-$here/../../.conformance}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
python=$folder/base/bin/python

# The mark of a finished part is a copy of what was asked for.
asked() { python3 -c 'import sys; print(sys.version)'; cat "$here/requirements/$1.txt"; }
finished() { [[ -f $folder/$1.done ]] && asked "$1" | cmp -s - "$folder/$1.done"; }

install() {
    local part=$1 began=$SECONDS
    shift
    if finished "$part"; then
        echo "conformance: $part is there"
        return
    fi
    echo "conformance: installing $part"
    rm -rf "${folder:?}/$part" "$folder/$part.done"
    if [[ $part == base ]]; then python3 -m venv "$folder/base"; fi
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
        --requirement "$here/requirements/$part.txt" "$@"
    if [[ $part == base ]]; then check_torch; fi
    asked "$part" > "$folder/$part.done.new"
    mv "$folder/$part.done.new" "$folder/$part.done"
    echo "conformance: $part took $((SECONDS - began)) s, $(du -sh "$folder/$part" | cut -f1)"
}

check_torch() {
    "$python" -c 'import torch, sys; sys.exit(torch.version.cuda is not None)' && return
    echo "conformance: pip found a torch for CUDA, and this needs one for the CPU: name an index or a folder that has" \
        "it with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS (see PyTorch's installation page)" >&2
    exit 1
}

install base
for engine in vllm sglang sglang-kt; do
    install "$engine" --target "$folder/$engine"
done
echo "conformance: $(du -sh "$folder" | cut -f1) in $folder, $SECONDS s"
