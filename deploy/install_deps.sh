#!/usr/bin/env bash
# Installs what building, testing and running Baleen on a CPU needs. Idempotent; Debian 12, Ubuntu 24.04.
#   deploy/install_deps.sh          compilers, libraries, test clients' Python
#   deploy/install_deps.sh --cuda   these, and into .deps/ucx a UCX that knows CUDA memory, which the system's does
#                                   not: programs run with it by LD_LIBRARY_PATH=.deps/ucx/lib, as local_cluster.sh
#                                   does with --device cuda and bundle.sh --ucx for other machines. It has no RDMA
#                                   (docs/operating.md)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cuda=
case ${1:-} in
  --cuda) cuda=1 ;;
  "") ;;
  *) sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac

packages=(
  g++ cmake ninja-build ccache pkg-config git ca-certificates curl procps
  clang clang-format clang-tidy
  libgrpc++-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev
  libabsl-dev libspdlog-dev libfmt-dev libboost-dev nlohmann-json3-dev libpcre2-dev libxxhash-dev
  prometheus-cpp-dev libucx-dev libhwy-dev libopenblas-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  python3 python3-venv
)

install_packages() {
  local missing=() package sudo=
  for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "install_deps: not root, and sudo is missing; need: ${missing[*]}" >&2; exit 1; }
    sudo=sudo
  fi
  echo "install_deps: installing ${missing[*]}"
  $sudo apt-get update -q
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}"
}

# fetch_ucx FOLDER: the libraries of the first wheel that can be had, in the layout of any UCX: lib, lib/ucx.
fetch_ucx() {
  local wheels=(libucx-cu13==1.22.0 libucx-cu12==1.22.0) wheel found= work
  for wheel in "${wheels[@]}"; do [ "$(cat "$1/wheel" 2>/dev/null)" != "$wheel" ] || return 0; done
  work=$(mktemp -d)
  trap 'rm -rf "$work"' RETURN
  python3 -m venv "$work/venv"
  for wheel in "${wheels[@]}"; do
    "$work/venv/bin/pip" download -q --no-deps --only-binary :all: --dest "$work" "$wheel" && found=$wheel && break
  done
  [ -n "$found" ] || { echo "install_deps: none of ${wheels[*]} could be fetched" >&2; return 1; }
  python3 -m zipfile -e "$work"/*.whl "$work/wheel"
  rm -rf "$1"
  mkdir -p "$1/lib/ucx"
  cp "$work"/wheel/libucx/lib/libuc{m,s,t,p}.so.0 "$work"/wheel/*.libs/libcudart-* "$1/lib/"
  cp "$work"/wheel/libucx/lib/ucx/libuc[mt]_*.so.0 "$1/lib/ucx/"
  strip --strip-unneeded "$1"/lib/*.so* "$1"/lib/ucx/*
  cp "$work"/wheel/*.dist-info/licenses/LICENSE "$1/"
  echo "$found" >"$1/wheel"
  echo "install_deps: $found is in $1"
}

install_packages
[ -z "$cuda" ] || fetch_ucx "$root/.deps/ucx"
echo "install_deps: everything is there"
