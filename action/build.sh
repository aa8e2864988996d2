#!/usr/bin/env bash
# `edgeq build`: its Markdown becomes the job's summary, its exit code an output; only what is no verdict ends the job.
# EDGEQ_CONFIG, EDGEQ_ONLY, EDGEQ_JOBS, EDGEQ_REQUIRE, EDGEQ_OUTPUT: as for the action. EDGEQ_REPORTS: where reports go.
set -euo pipefail
set -f # the patterns are edgeq's
mkdir -p "$EDGEQ_REPORTS"
arguments=(--output "$EDGEQ_OUTPUT" --jobs "$EDGEQ_JOBS")
arguments+=(--markdown "$EDGEQ_REPORTS/edgeq.md" --junit "$EDGEQ_REPORTS/junit.xml" --sarif "$EDGEQ_REPORTS/edgeq.sarif")
arguments+=(--html "$EDGEQ_REPORTS/edgeq.html")
if [[ -n $EDGEQ_CONFIG ]]; then arguments+=(--config "$EDGEQ_CONFIG"); fi
if [[ $EDGEQ_REQUIRE == true ]]; then arguments+=(--require); fi
for pattern in $EDGEQ_ONLY; do arguments+=(--only "$pattern"); done

code=0
edgeq build "${arguments[@]}" || code=$?
if [[ -f $EDGEQ_REPORTS/edgeq.md ]]; then
    cat "$EDGEQ_REPORTS/edgeq.md" >>"$GITHUB_STEP_SUMMARY"
    echo "summary=$EDGEQ_REPORTS/edgeq.md" >>"$GITHUB_OUTPUT"
fi
echo "exit-code=$code" >>"$GITHUB_OUTPUT"
# 1: a gate failed; 3: a cell has no verdict.
if ((code > 1 && code != 3)); then exit "$code"; fi
