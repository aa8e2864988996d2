#!/usr/bin/env bash
# The job fails where the build or the comparison did; it is the last step, so that everything has been kept by then.
# EDGEQ_BUILD_CODE, EDGEQ_COMPARE_CODE: exit codes.
set -euo pipefail
if [[ $EDGEQ_BUILD_CODE == 0 && $EDGEQ_COMPARE_CODE == 0 ]]; then
    echo "verdict=passed" >>"$GITHUB_OUTPUT"
    exit 0
fi
echo "verdict=failed" >>"$GITHUB_OUTPUT"
if [[ $EDGEQ_BUILD_CODE != 0 ]]; then echo "::error::a cell of the build failed, or has no verdict: see the summary"; fi
if [[ $EDGEQ_COMPARE_CODE != 0 ]]; then echo "::error::something grew past its limit: see the comparison in the summary"; fi
exit 1
