#!/usr/bin/env bash
# `edgeq compare` with the default branch's reports; afterwards the baseline holds this build's, to be kept on that branch.
# EDGEQ_BASELINE, EDGEQ_OUTPUT, EDGEQ_REPORTS: directories. EDGEQ_GROWTH_LIMITS: options of `edgeq compare`.
set -euo pipefail
set -f
comparison="$EDGEQ_REPORTS/comparison.md"
code=0
if [[ -d $EDGEQ_BASELINE ]]; then
    read -ra limits <<<"$EDGEQ_GROWTH_LIMITS"
    edgeq compare "$EDGEQ_BASELINE" "$EDGEQ_OUTPUT" --markdown "$comparison" "${limits[@]}" || code=$?
else
    echo "The default branch has no reports yet: nothing to compare with."
fi
if [[ -f $comparison ]]; then
    cat "$comparison" >>"$GITHUB_STEP_SUMMARY"
    echo "comparison=$comparison" >>"$GITHUB_OUTPUT"
fi
echo "exit-code=$code" >>"$GITHUB_OUTPUT"

rm -rf "$EDGEQ_BASELINE"
mkdir -p "$EDGEQ_BASELINE"
baseline="$(cd "$EDGEQ_BASELINE" && pwd)"
(cd "$EDGEQ_OUTPUT" && find . -name report.json -exec sh -c 'mkdir -p "$0/${1%/*}" && cp "$1" "$0/$1"' "$baseline" {} \;)
if ((code > 1)); then exit "$code"; fi
