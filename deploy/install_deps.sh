#!/usr/bin/env bash
# Installs what building, testing and running Baleen on a CPU needs. Idempotent; Debian 12, Ubuntu 24.04.
#   deploy/install_deps.sh          compilers, libraries, test clients' Python
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates curl procps
  clang clang-format clang-tidy
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev
  libabsl-dev libspdlog-dev libfmt-dev libboost-dev nlohmann-json3-dev libpcre2-dev libxxhash-dev
  prometheus-cpp-dev libucx-dev libhwy-dev libopenblas-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install_deps: everything is there"
  exit 0
fi

sudo=
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install_deps: not root, and sudo is missing; need: ${missing[*]}" >&2; exit 1; }
  sudo=sudo
fi
echo "install_deps: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
$sudo apt-get install -y -q --no-install-recommends "${missing[@]}"
