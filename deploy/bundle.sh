#!/usr/bin/env bash
# Copies built programs with the shared libraries they need into one folder, for a machine without packages:
# the same architecture, a C library at least as new as this one's, and for CUDA the driver.
#   deploy/bundle.sh [--ucx DIR] OUT_DIR PROGRAM...      then there: OUT_DIR/run PROGRAM [ARGUMENTS]
# --ucx: with the UCX of DIR/lib (.deps/ucx of install_deps.sh --cuda, or any other) in place of the system's.
set -euo pipefail
if [ "${1:-}" = --ucx ]; then
  export LD_LIBRARY_PATH=$(realpath "${2:?}")/lib
  shift 2
fi
[ $# -ge 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
out=$1
shift
mkdir -p "$out/bin" "$out/lib"

# What belongs to the C library, the compiler's runtime or the driver is the other machine's own.
system='^(linux-vdso|ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libresolv|libcuda)\.so'
for program in "$@"; do
  cp "$program" "$out/bin/"
  strip --strip-debug "$out/bin/$(basename "$program")"
  ldd "$program" | awk '$2 == "=>" {print $1, $3}' | while read -r name path; do
    [[ $name =~ $system ]] && continue
    [ -e "$path" ] || { echo "bundle: $program needs $name, which is not here" >&2; exit 1; }
    cp -Ln "$path" "$out/lib/$name"
  done
done
# UCX loads its transports from a folder beside the library; those for CUDA may bring the runtime they need.
ucx=$(ldd "$@" | awk '$1 ~ /^libucp\.so/ {path = $3} END {print path}')
if [ -n "$ucx" ]; then
  from=$(dirname "$(realpath "$ucx")")
  cp -rL "$from/ucx" "$out/lib/"
  find "$from" -maxdepth 1 -name 'libcudart-*' -exec cp -L {} "$out/lib/" \;
fi
cat >"$out/run" <<'RUN'
#!/usr/bin/env bash
here=$(cd "$(dirname "$0")" && pwd)
LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/bin/$1" "${@:2}"
RUN
chmod +x "$out/run"
du -sh "$out" | awk '{print "bundle: " $1 " in " $2}'
