#!/usr/bin/env bash
# A whole cluster on this machine: one router, prefill groups, decode groups; every process is the real one.
#
#   deploy/local_cluster.sh start [options]     returns when the cluster serves, and prints its addresses
#   deploy/local_cluster.sh status [--dir DIR]
#   deploy/local_cluster.sh restart --name NAME [--dir DIR]    ends and starts again the router or one group,
#                                               e.g. decode-0, with its configuration as it was
#   deploy/local_cluster.sh stop [--dir DIR]    drains and ends every process
#
#   --model DIR           checkpoint (models/tiny-dsv32)       --device cpu|cuda    (cpu)
#   --prefill-stages N    processes of a prefill group (2)     --prefill-groups N   (1)
#   --decode-ranks N      processes of a decode group (2)      --decode-groups N    (1)
#   --mtp K               draft tokens, 0 to 3 (1)             --numerics exact|fp8 (the device's default)
#   --http-port P         0 picks a free one (8000)            --grpc-port P        (0)
#   --chunk N             rows of a prefill batch (8192)       --pages N            pages of a process's pool
#   --transport T         UCX transports: tcp, shm, or all ("")
#   --overlap true|false  decode launches a step before it looks at the one before (on a GPU: true)
#   --peer-memory M       how pages go from GPU to GPU: cuda_ipc, ucx, host, or what each link finds ("")
#   --expert-exchange E   peer_memory, nccl, host: between decode ranks (DecodeConfig.expert_exchange)
#   --step-timeout MS     a step that takes longer hangs (worker.step_timeout_ms)
#   --gpus N              workers take the first N visible GPUs in turn (1); where several share one, run
#                         nvidia-cuda-mps-control -d first, or they take turns of milliseconds
#   --memory-fraction F   of its GPU's memory for each worker (0.9 shared among those of a GPU)
#   --dir RUN_DIR         configurations, logs, pids (run)
#   --bin DIR             binaries (of build/release/bin and build/dev/bin the first that is there; with --device
#                         cuda build/cuda/bin before these)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

die() { echo "local_cluster: $*" >&2; exit 1; }

command=${1:-}
[ $# -gt 0 ] && shift
model=$root/models/tiny-dsv32 device=cpu numerics= dir=$root/run bin=
prefill_stages=2 prefill_groups=1 decode_ranks=2 decode_groups=1 mtp=1
http_port=8000 grpc_port=0 chunk=8192 gpus=1 next_gpu=0 pages= transport= peer_memory= memory_fraction= step_timeout= overlap= expert_exchange= name=
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || die "$1 needs a value"
  case $1 in
    --model) model=$(realpath "$2") || die "--model: $2 does not exist" ;;
    --prefill-stages) prefill_stages=$2 ;; --prefill-groups) prefill_groups=$2 ;;
    --decode-ranks) decode_ranks=$2 ;; --decode-groups) decode_groups=$2 ;;
    --mtp) mtp=$2 ;; --device) device=$2 ;; --numerics) numerics=$2 ;;
    --http-port) http_port=$2 ;; --grpc-port) grpc_port=$2 ;;
    --chunk) chunk=$2 ;; --pages) pages=$2 ;; --transport) transport=$2 ;;
    --peer-memory) peer_memory=$2 ;; --overlap) overlap=$2 ;;
    --gpus) gpus=$2 ;;
    --memory-fraction) memory_fraction=$2 ;; --step-timeout) step_timeout=$2 ;; --name) name=$2 ;;
    --expert-exchange) expert_exchange=$2 ;;
    --dir) mkdir -p "$2"; dir=$(realpath "$2") ;; --bin) bin=$(realpath "$2") ;;
    *) die "unknown option $1" ;;
  esac
  shift 2
done

# A TCP port nobody listens on, below the range the kernel gives to outgoing connections.
free_port() {
  local port
  for _ in $(seq 100); do
    port=$((20000 + RANDOM % 12000))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  die "no free port found"
}

find_binaries() {
  local presets="release dev" preset
  [ "$device" != cuda ] || presets="cuda $presets"
  if [ -z "$bin" ]; then
    for preset in $presets; do
      [ -x "$root/build/$preset/bin/baleen_router" ] && { bin=$root/build/$preset/bin; return; }
    done
    die "no binaries in build/*/bin of $presets: build first, or pass --bin"
  fi
  [ -x "$bin/baleen_router" ] || die "--bin: no baleen_router in $bin"
}

# launch NAME BINARY: the configuration is $dir/NAME.textproto. On a GPU with the UCX that knows CUDA, if it is there.
launch() {
  local libraries=${LD_LIBRARY_PATH:-}
  if [ -d "$root/.deps/ucx/lib" ] && grep -q 'device: "cuda' "$dir/$1.textproto"; then
    libraries=$root/.deps/ucx/lib${libraries:+:$libraries}
  fi
  LD_LIBRARY_PATH=$libraries setsid "$bin/$2" "$dir/$1.textproto" >>"$dir/$1.log" 2>&1 </dev/null &
  echo "$!" >"$dir/$1.pid"
}

# A pid file may be older than the machine's last start: the process must be ours, or about to become it.
alive() {
  local pid words
  pid=$(cat "$dir/$1.pid" 2>/dev/null) && words=$(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") || return 1
  # Without words it has ended, or is between two programs.
  [ -n "$words" ] || { grep -qs '^State:.[^Z]' "/proc/$pid/status"; return; }
  [[ $words == *"$dir/$1.textproto"* || $words == *local_cluster.sh* ]]
}
processes() { (cd "$dir" && ls -- *.pid 2>/dev/null | sed 's/\.pid$//') || true; }

# The GPU whose turn it is.
next_device() {
  [ "$device" = cuda ] || { worker_device=$device; return; }
  worker_device=cuda:$next_gpu
  next_gpu=$(((next_gpu + 1) % gpus))
}

# worker_config GROUP INDEX SIZE LEADER GRPC_PORT
worker_config() {
  echo "worker {"
  echo "  model: \"$model\" group: \"$1\" index: $2 size: $3 host: \"127.0.0.1\" grpc_port: $5"
  [ "$2" -gt 0 ] && echo "  leader: \"$4\""
  [ "$2" -eq 0 ] && echo "  routers: \"127.0.0.1:$grpc_port\""
  echo "  device: \"$worker_device\" numerics: \"$numerics\" drafts: $mtp transport: \"$transport\""
  [ -n "$pages" ] && echo "  pages: $pages"
  [ -n "$peer_memory" ] && echo "  peer_memory: \"$peer_memory\""
  [ -n "$memory_fraction" ] && echo "  memory_fraction: $memory_fraction"
  [ -n "$step_timeout" ] && echo "  step_timeout_ms: $step_timeout"
  echo "  ready_file: \"$dir/$1-$2.ready\""
  echo "}"
}

# start_group NAME SIZE BINARY EXTRA_CONFIG
start_group() {
  local port leader index
  port=$(free_port)
  leader=127.0.0.1:$port
  for index in $(seq 0 $(($2 - 1))); do
    next_device
    { worker_config "$1" "$index" "$2" "$leader" "$([ "$index" -eq 0 ] && echo "$port" || echo 0)"
      echo "$4"; } >"$dir/$1-$index.textproto"
    launch "$1-$index" "$3"
  done
}

wait_until_ready() {
  local name deadline=$((SECONDS + 120))
  # Another cluster's router may answer on that port.
  until [ -f "$dir/router.ready" ] && curl -sf -o /dev/null "http://127.0.0.1:$http_port/readiness"; do
    for name in $(processes); do
      alive "$name" && continue
      tail -n 5 "$dir/$name.log" >&2
      stop >&2
      die "$name ended; its log is $dir/$name.log"
    done
    [ $SECONDS -lt $deadline ] || { stop >&2; die "not ready after 120 s; logs are in $dir"; }
    sleep 0.1
  done
}

start() {
  find_binaries
  mkdir -p "$dir"
  local name workers=$((prefill_groups * prefill_stages + decode_groups * decode_ranks))
  [ "$device" = cuda ] && [ -z "$memory_fraction" ] && memory_fraction=$(awk "BEGIN {print 0.9 / int(($workers + $gpus - 1) / $gpus)}")
  for name in $(processes); do alive "$name" && die "a cluster runs from $dir already ($name); stop it first"; done
  rm -f "$dir"/*.pid "$dir"/*.ready "$dir"/*.log "$dir"/*.textproto
  [ "$http_port" -eq 0 ] && http_port=$(free_port)
  [ "$grpc_port" -eq 0 ] && grpc_port=$(free_port)
  cat >"$dir/router.textproto" <<EOT
model: "$model" host: "127.0.0.1" http_port: $http_port grpc_port: $grpc_port ready_file: "$dir/router.ready" drain_grace_ms: 0
EOT
  launch router baleen_router
  local group
  for group in $(seq 0 $((prefill_groups - 1))); do
    start_group "prefill-$group" "$prefill_stages" baleen_prefill "chunk_tokens: $chunk"
  done
  for group in $(seq 0 $((decode_groups - 1))); do
    start_group "decode-$group" "$decode_ranks" baleen_decode \
      "expert_exchange: \"$expert_exchange\"${overlap:+ overlap: $overlap}"
  done
  wait_until_ready
  printf 'http=%s\ngrpc=%s\n' "http://127.0.0.1:$http_port" "127.0.0.1:$grpc_port" | tee "$dir/urls"
}

status() {
  local name
  [ -n "$(processes)" ] || die "no cluster in $dir"
  for name in $(processes); do
    if alive "$name"; then echo "$name: pid $(cat "$dir/$name.pid")"; else echo "$name: ended"; fi
  done
  [ -f "$dir/urls" ] || return 0
  cat "$dir/urls"
  curl -sf "$(sed -n 's/^http=//p' "$dir/urls")/workers" || echo "the router does not answer"
}

# stop [NAME...]: all processes when none is named.
stop() {
  local name deadline=$((SECONDS + 70))
  [ $# -gt 0 ] || set -- $(processes)
  for name in "$@"; do alive "$name" && kill -TERM "$(cat "$dir/$name.pid")"; done
  for name in "$@"; do
    while alive "$name" && [ $SECONDS -lt $deadline ]; do sleep 0.05; done
    if alive "$name"; then
      echo "local_cluster: $name did not end, killing it" >&2
      kill -KILL "$(cat "$dir/$name.pid")"
    fi
    rm -f "$dir/$name.pid"
  done
}

restart() {
  ! grep -qs 'device: "cuda' "$dir"/*.textproto || device=cuda
  find_binaries
  [ -n "$name" ] || die "restart needs --name, e.g. decode-0 or router"
  local members
  members=$(processes | grep -E "^$name(-[0-9]+)?\$") || die "no process of $name in $dir"
  stop $members
  http_port=$(sed -n 's/.*http_port: \([0-9]*\).*/\1/p' "$dir/router.textproto")
  for name in $members; do
    rm -f "$dir/$name.ready"
    case $name in
      router) launch "$name" baleen_router ;;
      prefill-*) launch "$name" baleen_prefill ;;
      decode-*) launch "$name" baleen_decode ;;
    esac
  done
  until for name in $members; do [ -f "$dir/$name.ready" ] || break; done && [ -f "$dir/$name.ready" ]; do
    for name in $members; do alive "$name" || die "$name ended; its log is $dir/$name.log"; done
    sleep 0.1
  done
  wait_until_ready
}

case $command in
  restart) restart ;;
  start) start ;;
  status) status ;;
  stop) stop ;;
  *) sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2; exit 2 ;;
esac
