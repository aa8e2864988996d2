#!/usr/bin/env bash
# Install the edgeq that the workflow named, with the versions that it was checked with.
# EDGEQ_EXTRAS: extras with commas between them, or nothing.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
extras="${EDGEQ_EXTRAS:-}"
if [[ ! $extras =~ ^[a-z,]*$ ]]; then
    echo "::error::extras is \"$extras\": write names with commas between them, such as executorch,coreml" >&2
    exit 2
fi
python -m pip install --disable-pip-version-check --quiet -c "$here/constraints.txt" "$here${extras:+[$extras]}"
# Browser bundles are judged with npm packages of their own.
if [[ ,$extras, == *,browser,* ]]; then edgeq doctor --install-browser; fi
