#!/usr/bin/env bash
# Starts a real Kubernetes node, runs a command, and stops the node: node.sh [COMMAND…], by default make test-cluster
#
# The script is for machines that cannot pull images. It needs the neighbouring folder of Kubernetes tools (or
# TESTS_KUBERNETES_TOOLS) after its `install node` has run. `node.sh --available` only checks that: it exits with 0, or
# with 1 and prints the reason. The command gets KUBECONFIG and the variables TESTS_CLUSTER_…, which docs/development.md
# explains.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/../.." && pwd)
tools=${TESTS_KUBERNETES_TOOLS:-$checkout/../shared/tools/kubernetes}
assets=${KUBEBUILDER_ASSETS:-/usr/local/kubebuilder/bin}

missing() {
  [ -x "$tools/node" ] || { echo "no $tools/node"; return; }
  [ "$(id -u)" = 0 ] || { echo "only root can start a node"; return; }
  for program in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl coredns metrics-server \
    keda-operator keda-adapter contour envoy kube-router; do
    [ -x "$assets/$program" ] || { echo "no $assets/$program; $tools/install node builds it"; return; }
  done
  for program in containerd runc buildah iptables ipset conntrack; do
    command -v $program > /dev/null || { echo "no $program; $tools/install node installs it"; return; }
  done
}
reason=$(missing)
[ -z "$reason" ] || { echo "$reason" >&2; exit 1; }
[ "${1:-}" = --available ] && exit 0

[ "${TESTS_CLUSTER_FOLDER:-}" ] || folder=$(mktemp -d -t agentplane-node-XXXXXX)
folder=${TESTS_CLUSTER_FOLDER:-$folder}
mkdir -p "$folder"
down() {
  "$tools/node" down "$folder" || true
  [ "${TESTS_CLUSTER_KEEP:-}" ] || rm -rf "$folder" || true
}
trap down EXIT

"$checkout/tests/cluster/images.sh" "$folder/images.tar"
echo '10.88.0.1 agents.test' > "$folder/hosts"
"$tools/node" up "$folder"
"$tools/node" load "$folder" "${TESTS_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/agentplane-images}/node.tar" \
  "$folder/images.tar" > "$folder/images.txt"
rm -f "$folder/images.tar"
# `langgraph deploy` needs images by digest; two digests for the same image give two different revisions.
digest() { echo "sandbox.local/$1@sha256:$(printf '%064d' "$2")"; }
for image in stub hello; do
  for number in 1 2; do "$tools/node" tag "$folder" "sandbox.local/$image:1" "$(digest $image $number)"; done
done

export KUBECONFIG=$folder/kubeconfig PATH=$assets:$PATH
export TESTS_CLUSTER_NODE=$folder TESTS_CLUSTER_ADDRESS=10.88.0.2
export TESTS_CLUSTER_IMAGE=registry.test/agentplane:checkout
export TESTS_CLUSTER_STUB="$(digest stub 1),$(digest stub 2)" TESTS_CLUSTER_AGENT="$(digest hello 1),$(digest hello 2)"
export TESTS_CLUSTER_INGRESS=10.88.0.1:80 TESTS_CLUSTER_HOSTNAME=agents.test
export TESTS_CLUSTER_INGRESS_CLASS=contour TESTS_CLUSTER_GATEWAY=gateways/shared
if grep -q agentplane:earlier "$folder/images.txt"; then
  mkdir -p "$folder/earlier"
  git -C "$checkout" archive HEAD~1 k8s | tar -C "$folder/earlier" -x
  export TESTS_CLUSTER_EARLIER=registry.test/agentplane:earlier TESTS_CLUSTER_EARLIER_CHART=$folder/earlier/k8s/chart
fi
cd "$checkout"
[ $# -gt 0 ] || set -- make test-cluster
"$@"
