#!/usr/bin/env bash
# `edgeq compare` with the default branch's reports; afterwards the baseline holds this build's, to be kept on that branch.
# EDGEQ_BASELINE, EDGEQ_OUTPUT, EDGEQ_REPORTS: directories. EDGEQ_GROWTH_LIMITS: options of `edgeq compare`.
set -euo pipefail
set -f
comparison="$EDGEQ_REPORTS/comparison.md"
code=0
if [[ -f $EDGEQ_BASELINE/build.json ]]; then
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

mkdir -p "$EDGEQ_BASELINE"
cp "$EDGEQ_OUTPUT/build.json" "$EDGEQ_BASELINE/"
if ((code > 1)); then exit "$code"; fi
