# fish completion for tproxyctl: made from src/ctl/subcommands.rs by `make man`, do not edit

complete -c tproxyctl -f
complete -c tproxyctl -n __fish_use_subcommand -a 'show health monitor top upstream redirection kill reload reopen upgrade stop verbose'
complete -c tproxyctl -n '__fish_seen_subcommand_from kill' -a 'source'
complete -c tproxyctl -n '__fish_seen_subcommand_from redirection' -a 'disable enable'
complete -c tproxyctl -n '__fish_seen_subcommand_from show' -a 'summary redirections upstreams connections workers rules config'
complete -c tproxyctl -n '__fish_seen_subcommand_from upstream' -a 'disable drain enable'
complete -c tproxyctl -n '__fish_seen_subcommand_from verbose' -a 'on off'
complete -c tproxyctl -n '__fish_seen_subcommand_from stop' -l drain -x
complete -c tproxyctl -n '__fish_seen_subcommand_from connections' -a 'client original upstream port redirection worker state older'
complete -c tproxyctl -s i -l instance -x -a '(path basename -E /run/tproxy/*.sock)' -d 'Ask the instance of /run/tproxy/NAME.sock'
complete -c tproxyctl -s S -l socket -r -F -d 'Ask the instance with this socket'
complete -c tproxyctl -l json -d 'Print JSON, for programs'
complete -c tproxyctl -s h -l help -d 'Print this summary'
complete -c tproxyctl -s V -l version -d 'Print the version'
