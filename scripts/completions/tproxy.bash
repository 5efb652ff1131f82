# bash completion for tproxy: made from src/cli/options.rs by `make man`, do not edit
# shellcheck shell=bash

_tproxy() {
    local word=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]}
    # Readline makes three words of --option=value.
    if [[ $word == '=' ]]; then
        word=
    elif [[ $option == '=' ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $option in
    -s | --listen) mapfile -t COMPREPLY < <(compgen -A service -- "$word") ;;
    -b | --bind | -a | --allow | -R | --redirect | -X | --exempt | --reject | --verify | --tproxy-mark | --tproxy-table | --upstream-grace | --deny | --congestion-control | -f | --page | --max-head | -m | --max-connections | --max-per-source | --source-block | --connect-timeout | --handshake-timeout | --idle-timeout | --fin-timeout | --check-interval | --check-http | --rise | --fall | --control-group | --metrics | --drain-delay | --syslog | --drain | --retire-timeout) COMPREPLY=() ;;
    --firewall) mapfile -t COMPREPLY < <(compgen -W 'auto iptables nft' -- "$word") ;;
    --fail) mapfile -t COMPREPLY < <(compgen -W 'open closed' -- "$word") ;;
    --local) mapfile -t COMPREPLY < <(compgen -W 'same' -- "$word") ;;
    --proto) mapfile -t COMPREPLY < <(compgen -W 'tcp udp' -- "$word") ;;
    --intercept) mapfile -t COMPREPLY < <(compgen -W 'redirect tproxy' -- "$word") ;;
    --source) mapfile -t COMPREPLY < <(compgen -W 'client client:port' -- "$word") ;;
    --balance) mapfile -t COMPREPLY < <(compgen -W 'first round-robin source' -- "$word") ;;
    --proxy-protocol) mapfile -t COMPREPLY < <(compgen -W 'v1 v2' -- "$word") ;;
    --via) mapfile -t COMPREPLY < <(compgen -W 'tcp http connect socks5' -- "$word") ;;
    --via-fallback) mapfile -t COMPREPLY < <(compgen -W 'connect' -- "$word") ;;
    --auth-file | --health-file | -c | --config | -l | --access-log | -P | --pidfile) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
    --forwarded) mapfile -t COMPREPLY < <(compgen -W 'forwarded x-forwarded-for both' -- "$word") ;;
    --control) mapfile -t COMPREPLY < <(compgen -W 'none' -- "$word") ;;
    -r | --user) mapfile -t COMPREPLY < <(compgen -u -- "$word") ;;
    -w | --workers) mapfile -t COMPREPLY < <(compgen -W 'auto' -- "$word") ;;
    *)
        if [[ $word == -* ]]; then
            mapfile -t COMPREPLY < <(compgen -W '-s --listen -b --bind -a --allow --only-redirected --accept-proxy -R --redirect -X --exempt --reject --reject-quic -O --output --firewall --verify --fail --local --kernel --proto --intercept --source --no-conntrack --tproxy-mark --tproxy-table -t --transparent -p --proxy-only --balance --fallback --upstream-grace --deny --congestion-control --proxy-protocol --via --via-fallback --sni --auth-file --forwarded --host-check -f --page --max-head -m --max-connections --max-per-source --source-block --connect-timeout --handshake-timeout --idle-timeout --fin-timeout --check-interval --check-http --check-tls --rise --fall --control --control-group --metrics --health-file --drain-delay -c --config -r --user -d --foreground -w --workers -l --access-log --syslog -v --verbose -P --pidfile --drain --retire-timeout --check --print-rules --flush --after-crash -h --help -V --version' -- "$word")
        else
            mapfile -t COMPREPLY < <(compgen -A hostname -- "$word")
        fi
        ;;
    esac
}

complete -F _tproxy tproxy
