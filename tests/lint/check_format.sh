#!/usr/bin/env bash
# Fails and names the files that clang-format would change.
set -euo pipefail
cd "$(dirname "$0")/../.."
git ls-files -z '*.cc' '*.h' '*.cu' '*.cuh' | xargs -0 -n 64 -P 2 "${1:-clang-format}" --dry-run --Werror
