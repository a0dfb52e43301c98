#!/usr/bin/env bash
# Tell Ray that this node is going away, then wait until work has left it.
#
#   drain.sh SECONDS [NODE_ID]   the preStop hook of a pod; NODE_ID: where several nodes share a machine
#   drain.sh --watch SECONDS     on EC2: wait for the two-minute notice of a spot instance, then do so
#
# Ray then places nothing more here, Serve starts other replicas first, and Ray Train learns that the node's
# ranks will be lost (ray.train.get_preemption_info). Without this the node is simply gone.
set -u

METADATA=${DREL_METADATA_URL:-http://169.254.169.254}  # another one in the test

working() {  # a worker process that is more than an idle one
  local file
  for file in /proc/[0-9]*/cmdline; do
    case "$(tr '\0' ' ' 2>/dev/null < "$file")" in
      ray::IDLE*) ;;
      ray::*) return 0 ;;
    esac
  done
  return 1
}

drain() {
  local seconds=$1; shift
  SECONDS=0
  ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the machine goes away" \
    --deadline-remaining-seconds "$seconds" ${1:+--node-id "$1"} || return 1
  while (( SECONDS < seconds )) && working; do sleep 1; done
}

noticed() {
  local token
  token=$(wget -q -T 2 -O - --method=PUT --header="X-aws-ec2-metadata-token-ttl-seconds: 60" \
    "$METADATA/latest/api/token") || return 1
  wget -q -T 2 -O /dev/null --header="X-aws-ec2-metadata-token: $token" \
    "$METADATA/latest/meta-data/spot/instance-action"  # 404 until there is a notice
}

case "${1:-}" in
  --watch) until noticed; do sleep 5; done; drain "${2:?SECONDS}" ${3:+"$3"} ;;
  [0-9]*) drain "$1" ${2:+"$2"} ;;
  *) echo "usage: drain.sh [--watch] SECONDS [NODE_ID]" >&2; exit 2 ;;
esac
