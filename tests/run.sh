#!/usr/bin/env bash
# Installs what is missing, builds, runs the tests that need no GPU, but for the long ones, ends with ctest's summary.
#   tests/run.sh            preset dev
#   tests/run.sh PRESET     release, asan, tsan, clang (thread-safety analysis), cuda (compiles only)
# The long ones, which no preset runs, after it: ctest --test-dir build/dev -L slow
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-dev}

deploy/install_deps.sh
case $preset in dev | release | asan) tests/clients/setup.sh ;; esac
# CUDA code compiles wherever there is a compiler for it; running it needs a GPU (ctest --preset gpu).
if [ "$preset" = dev ] && command -v nvcc >/dev/null; then
  cmake --preset cuda >/dev/null
  cmake --build --preset cuda --target gpu_tests
fi
exec cmake --workflow --preset "$preset"
