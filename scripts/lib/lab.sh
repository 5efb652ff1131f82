# shellcheck shell=bash
# The network of scripts/demo, scripts/demo-proxy and scripts/bench, which source this file: machines around a gateway,
# each in a network namespace of its own. Machine N has the address 10.N.0.2, and 10.N.0.1 is the gateway's end of the
# cable:
#
#     client 10.1.0.2 ---- 10.1.0.1 gateway 10.2.0.1 ---- 10.2.0.2 server
#
# lab_open LAB [HOSTS]     makes the directory $DIR, and arranges that lab_close runs at every end of the script
# lab_needs PROGRAM...     fails unless all these programs are installed
# lab_gateway              makes the gateway
# lab_machine NAME N       makes a machine and its cable to the gateway
# lab_start NAME PLACE...  starts a server in a namespace; $DIR/NAME.out gets its output
# lab_close                removes processes, namespaces and files of this run
# lab_leftovers            prints what lab_close should have removed and did not
# inside PLACE COMMAND...  runs a command in a namespace
# wait_until SECONDS WHAT COMMAND...
# die MESSAGE
PATH=$PATH:/usr/sbin:/sbin
DIR=''
LAB_NAME='' LAB_PREFIX='' LAB_HOSTS='' LAB_MADE_ETC_NETNS=''
LAB_PLACES=() LAB_PIDS=()

die() {
    printf '%s: %s\n' "$LAB_NAME" "$*" >&2
    exit 1
}

lab_open() {
    LAB_NAME=$1 LAB_HOSTS=${2:-}
    # The process id makes the names unique, so two runs can be at work at the same time.
    LAB_PREFIX=tproxy-$LAB_NAME-$$
    [ "$(id -u)" = 0 ] || die "this needs root: it makes network namespaces"
    trap lab_close EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    DIR=$(mktemp -d "/tmp/$LAB_PREFIX.XXXXXX")
    # The servers run as users of their own, and have to reach their files.
    chmod 755 "$DIR"
}

lab_needs() {
    local program
    for program in "$@"; do
        command -v "$program" >/dev/null || die "$program is missing; 'scripts/setup $LAB_NAME' installs it"
    done
}

inside() {
    local place=$1
    shift
    ip netns exec "$LAB_PREFIX-$place" "$@"
}

lab_namespace() {
    local namespace=$LAB_PREFIX-$1
    LAB_PLACES+=("$namespace")
    ip netns add "$namespace" || die "cannot make a network namespace; this needs CAP_SYS_ADMIN and CAP_NET_ADMIN"
    ip -n "$namespace" link set lo up
    [ -n "$LAB_HOSTS" ] || return 0
    # ip netns exec mounts this file over /etc/hosts, so the machines have names here and nowhere else, ip-netns(8).
    [ -d /etc/netns ] || LAB_MADE_ETC_NETNS=yes
    mkdir -p "/etc/netns/$namespace"
    printf '127.0.0.1 localhost\n%s\n' "$LAB_HOSTS" >"/etc/netns/$namespace/hosts"
}

lab_gateway() {
    lab_namespace gateway
    # The setting belongs to the namespace; forwarding on this machine stays as it is.
    inside gateway sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward' || die "cannot turn on forwarding in a namespace"
}

lab_machine() {
    local machine=$LAB_PREFIX-$1 gateway=$LAB_PREFIX-gateway number=$2
    lab_namespace "$1"
    ip -n "$machine" link add eth0 type veth peer name "eth$number" netns "$gateway"
    ip -n "$machine" address add "10.$number.0.2/24" dev eth0
    ip -n "$gateway" address add "10.$number.0.1/24" dev "eth$number"
    ip -n "$machine" link set eth0 up
    ip -n "$gateway" link set "eth$number" up
    ip -n "$machine" route add default via "10.$number.0.1"
}

lab_start() {
    local name=$1
    shift
    inside "$@" >"$DIR/$name.out" 2>&1 &
    LAB_PIDS+=($!)
}

wait_until() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$DIR"/*.out >&2 || true
            die "waited in vain for $what"
        fi
        sleep 0.05
    done
}

lab_pids() {
    local namespace
    for namespace in "${LAB_PLACES[@]}"; do
        [ ! -e "/run/netns/$namespace" ] || ip netns pids "$namespace"
    done
}

# It goes on after a step that fails, and touches only what bears the names of this run.
lab_close() {
    trap '' HUP INT TERM
    trap - EXIT
    set +e
    local signal deadline namespace pids
    for signal in TERM KILL; do
        deadline=$((SECONDS + 3))
        while mapfile -t pids < <(lab_pids) && [ "${#pids[@]}" -gt 0 ] && [ "$SECONDS" -lt "$deadline" ]; do
            LAB_PIDS+=("${pids[@]}")
            kill "-$signal" "${pids[@]}" 2>/dev/null
            sleep 0.1
        done
    done
    for namespace in "${LAB_PLACES[@]}"; do
        [ ! -e "/run/netns/$namespace" ] || ip netns delete "$namespace"
        rm -rf "/etc/netns/$namespace"
    done
    [ -z "$LAB_MADE_ETC_NETNS" ] || rmdir /etc/netns 2>/dev/null
    [ -z "$DIR" ] || rm -rf "$DIR"
    wait 2>/dev/null
    set -e
}

lab_leftovers() {
    local pid
    ip netns list | grep -F "$LAB_PREFIX-" || true
    for pid in "${LAB_PIDS[@]}"; do
        # A zombie has no program any more.
        ! readlink "/proc/$pid/exe" >/dev/null 2>&1 || echo "process $pid"
    done
    ls -d "/tmp/$LAB_PREFIX".* "/etc/netns/$LAB_PREFIX"* 2>/dev/null || true
}
