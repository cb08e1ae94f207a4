#!/usr/bin/env bash
# The real clients that the tests run against a cluster, in a virtual environment under build/.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/clients
if ! cmp -s tests/clients/requirements.txt "$venv/installed.txt"; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
  cp tests/clients/requirements.txt "$venv/installed.txt"
fi
