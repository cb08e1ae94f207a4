#!/usr/bin/env bash
# From nothing to a streamed answer: installs what is missing, builds, starts a local cluster on the tiny
# model (router, 2 prefill stages, 2 decode ranks, MTP), asks it one question and prints the answer as it
# comes.
#   deploy/quickstart.sh           leaves the cluster running
#   deploy/quickstart.sh --once    stops it afterwards
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
once=
case ${1:-} in
  --once) once=1 ;;
  "") ;;
  *) echo "usage: deploy/quickstart.sh [--once]" >&2; exit 2 ;;
esac

deploy/install_deps.sh
cmake --preset release >/dev/null
cmake --build --preset release --target baleen_router baleen_prefill baleen_decode baleenctl

dir=$root/run
# The ports of the README's examples; 0, any free one, where they are taken.
free() { if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then echo 0; else echo "$1"; fi; }
url() { sed -n 's/^http=//p' "$dir/urls" 2>/dev/null; }
if deploy/local_cluster.sh status --dir "$dir" >/dev/null 2>&1 && curl -sf -o /dev/null "$(url)/readiness"; then
  echo "quickstart: the cluster of $dir runs already"
  once=
else
  deploy/local_cluster.sh start --bin build/release/bin --dir "$dir" --http-port "$(free 8000)" --grpc-port "$(free 9000)"
  [ -n "$once" ] && trap 'deploy/local_cluster.sh stop --dir "$dir"' EXIT
fi

question="Tell me a story about a fox named Pip."
echo
echo "> $question"
build/release/bin/baleenctl generate --url "$(url)" --chat "$question" --max-tokens 200 --temperature 0
echo
if [ -z "$once" ]; then
  echo "The cluster serves on $(url); deploy/local_cluster.sh stop --dir run ends it."
fi
