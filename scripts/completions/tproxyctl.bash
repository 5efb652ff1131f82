# bash completion for tproxyctl: made from src/ctl/subcommands.rs by `make man`, do not edit
# shellcheck shell=bash

_tproxyctl() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} given='' words='' at
    case $before in
    -i | --instance)
        words=$(printf '%s\n' /run/tproxy/*.sock | sed -n 's|.*/\([^*]*\)\.sock$|\1|p')
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
        return
        ;;
    -S | --socket)
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "$word")
        return
        ;;
    esac
    # The words of the command so far, without options and their values.
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
        -i | --instance | -S | --socket) at=$((at + 1)) ;;
        -*) ;;
        *) given="$given${given:+ }${COMP_WORDS[at]}" ;;
        esac
    done
    case $given in
    '') words='show health monitor top upstream redirection kill reload reopen upgrade stop verbose' ;;
    kill) words='source' ;;
    redirection) words='disable enable' ;;
    show) words='summary redirections upstreams connections workers rules config' ;;
    upstream) words='disable drain enable' ;;
    verbose) words='on off' ;;
    stop) words='--drain' ;;
    'show connections'*) words='client original upstream port redirection worker state older' ;;
    esac
    [[ $word != -* || $given == stop ]] || words='-i --instance -S --socket --json -h --help -V --version'
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}

complete -F _tproxyctl tproxyctl
