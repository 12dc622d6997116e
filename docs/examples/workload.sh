#!/bin/sh
# A workload that asks before it acts, in a shell with curl.
#
#     workload.sh SOCKET CLASS OPERATION RIGHT RESOURCE...
#
# begins a task of the class with the right to the operation on RIGHT, a resource or a prefix that ends in /*, asks for each of
# the resources, and finishes the task. The holder is this shell: with it the task ends, however it ends.
set -eu
if [ $# -lt 5 ]; then
  echo "usage: $0 SOCKET CLASS OPERATION RIGHT RESOURCE..." >&2
  exit 2
fi
socket=$1 class=$2 operation=$3 right=$4
shift 4

# ask METHOD PATH [BODY]: the answer, or what was refused and what to do, and exit status 1. A body may hold a token, and what
# stands on a command line everybody can read: it goes in by a pipe, written by the shell itself.
ask() {
  answer=$(printf '%s' "${3-}" |
    curl -sS --unix-socket "$socket" -X "$1" "http://hardtack$2" ${3:+--data-binary @-} -w '\n%{http_code}')
  status=${answer##*
}
  answer=${answer%
*}
  if [ "$status" -ge 400 ]; then
    echo "refused: $(field code): $(field detail)" >&2
    return 1
  fi
}

# field NAME: a text in the last answer. The texts that are read here hold no quotation marks.
field() { printf '%s' "$answer" | sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p'; }

ask POST /v1/tasks \
  "{\"task\":\"$class\",\"rights\":[{\"resource\":\"$right\",\"action\":\"$operation\"}],\"ttl_s\":600,\"holder\":$$}"
task=$(field task_id) token=$(field token)
trap 'ask POST "/v1/tasks/$task/finish"' EXIT

code=0
for resource in "$@"; do
  ask POST /v1/authorize "{\"token\":\"$token\",\"operation\":\"$operation\",\"resource\":\"$resource\"}"
  echo "$operation $resource: $(field reason) ($(field decision_id))"
  [ "$(field decision)" = allow ] || code=3
done
exit $code
