# shellcheck shell=bash
# What the demos share beside the network: how they print a step, and how they check it.
FAILED=0
# What installs the rules; a demo may set it to nft.
DEMO_FIREWALL=iptables

# demo_open LAB HOSTS TPROXY
demo_open() {
    local tproxy
    lab_open "$1" "$2"
    lab_needs ip "$DEMO_FIREWALL" curl nginx
    tproxy=$(realpath "$3")
    [ -x "$tproxy" ] || die "there is no $3; run 'make' first"
    # The steps call the program by its name alone, as a user would.
    ln -s "$tproxy" "$DIR/tproxy"
    PATH=$DIR:$PATH
    # curl must go where the demo sends it.
    unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY
}

heading() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }
indent() { sed 's/^/    /'; }

# run PLACE COMMAND...: prints the command as a user would type it, runs it, and prints its output.
run() {
    local place=$1
    shift
    printf '    %s# %s\n' "$place" "${*@Q}" | sed "s/'\([-a-zA-Z0-9:\/.]*\)'/\1/g"
    inside "$place" "$@" 2>&1 | indent
}

complain() {
    echo "    WRONG: $*"
    FAILED=1
}

# The rules of the gateway, without counters.
rules() {
    local save
    if [ "$DEMO_FIREWALL" = nft ]; then
        inside gateway nft -s list ruleset
        return
    fi
    for save in iptables-save ip6tables-save; do
        inside gateway "$save" | grep '^-A\|tproxy' | sed 's/ \[[0-9:]*\]$//' || true
    done
}

# start_web_server PLACE SERVER: SERVER is what the server block of nginx's configuration holds.
start_web_server() {
    # nginx gives the directory of its temporary files to the user of its workers. tproxy believes no file in such a one.
    local temp=$DIR/nginx
    mkdir "$temp"
    cat >"$DIR/nginx.conf" <<END
daemon off;
master_process off;
pid $DIR/nginx.pid;
error_log $DIR/nginx.log;
events { }
http {
    log_format asked "\$remote_addr asked for \$host\$request_uri";
    access_log off;
    client_body_temp_path $temp; proxy_temp_path $temp; fastcgi_temp_path $temp; uwsgi_temp_path $temp; scgi_temp_path $temp;
    default_type text/plain;
    server { $2 }
}
END
    lab_start nginx "$1" nginx -e "$DIR/nginx.log" -c "$DIR/nginx.conf"
}

# stop_tproxy RULES_BEFORE: prints the rules of tproxy that are left, and compares the others with those before it ran.
stop_tproxy() {
    kill -TERM "$(cat "$DIR/tproxy.pid")"
    wait_until 40 "the end of tproxy" test ! -e "$DIR/tproxy.pid"
    if rules | grep tproxy | indent; then complain "tproxy should have removed its rules"; else echo "    none"; fi
    [ "$(rules)" = "$1" ] || complain "the administrator's rules are no longer the same"
}

demo_close() {
    local left
    lab_close
    left=$(lab_leftovers)
    if [ -z "$left" ]; then echo "    nothing"; else complain "$left"; fi
    [ "$FAILED" = 0 ] || die "at least one step went wrong; search for WRONG above"
    printf '\nEvery step did what it should.\n'
}
