# Completion for bash: `source scripts/dunlin-completion.bash`, or put it in ~/.local/share/bash-completion/completions/dunlin
_dunlin() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command="" i
    local commands="status health member publish recommend similar trending session catalog key journal replay eval"
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ " $commands " == *" ${COMP_WORDS[i]} "* ]]; then
            command=${COMP_WORDS[i]}
            break
        fi
    done
    local common="--server --timeout --json --help --version"
    local read="--level --token --max-staleness" filter="--filter --include-unavailable"
    case $previous in
    --level) COMPREPLY=($(compgen -W "local session linearizable" -- "$word")); return ;;
    --type) COMPREPLY=($(compgen -W "view click cart buy like dislike play remove" -- "$word")); return ;;
    --only) COMPREPLY=($(compgen -W "blend popular vstan vmis rules covis session_vector session trending" -- "$word")); return ;;
    --repeats) COMPREPLY=($(compgen -W "keep collapse" -- "$word")); return ;;
    --last-item) COMPREPLY=($(compgen -W "keep drop" -- "$word")); return ;;
    --ids) COMPREPLY=($(compgen -f -- "$word")); return ;;
    --server | --timeout | --token | --filter | --user | --item | --anchor | --diversity | --category-cap | --boost | --pin | --variant) return ;;
    esac
    case $command in
    "") COMPREPLY=($(compgen -W "$commands $common" -- "$word")) ;;
    publish)
        COMPREPLY=($(compgen -W "--user --item --type --event-id --weight --time $common" -- "$word") $(compgen -f -- "$word"))
        ;;
    recommend) COMPREPLY=($(compgen -W "-k --items --exclude --exclude-purchased --include-seen --anchor --diversity --category-cap --boost --pin --variant --do-not-record $filter $read $common" -- "$word")) ;;
    similar | trending) COMPREPLY=($(compgen -W "-k $filter $read $common" -- "$word")) ;;
    session) COMPREPLY=($(compgen -W "get delete $read $common" -- "$word")) ;;
    member) COMPREPLY=($(compgen -W "list add promote remove replace --replica --wait $common" -- "$word")) ;;
    journal) COMPREPLY=($(compgen -W "verify dump --json" -- "$word") $(compgen -d -- "$word")) ;;
    replay)
        COMPREPLY=($(compgen -W "log source --data-dir --group --to-index --from-start --dump --config --source --until --shards --show-ids --features --at --last --json --help" -- "$word") $(compgen -f -- "$word"))
        ;;
    eval)
        COMPREPLY=($(compgen -W "--events --test --split --item-pattern --drop-types --repeats --last-item --gap --pace --live --sources --only --without --k --max --seed --learn --recall --hide-seen --vectors --ids --index --catalog --shards --idle --events-per-user --near-cells --near-visitors --near-half-life --threads --plot --json --help" -- "$word") $(compgen -f -- "$word"))
        ;;
    key) COMPREPLY=($(compgen -W "create" -- "$word") $(compgen -f -- "$word")) ;;
    catalog)
        COMPREPLY=($(compgen -W "load get delete --ids --vector $read $common" -- "$word") $(compgen -f -- "$word"))
        ;;
    *) COMPREPLY=($(compgen -W "$common" -- "$word")) ;;
    esac
}

_dunlin_replay() {
    local word=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]}
    local load="--to --events --format --key --id-prefix --batch --in-flight --rate --time --acked --give-up --timeout --json --help"
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "generate publish run check --help --version" -- "$word"))
        return
    fi
    case $command in
    generate) COMPREPLY=($(compgen -W "--users --items --sessions --seed --dim --events --catalog --start --rate --json --help" -- "$word")) ;;
    publish) COMPREPLY=($(compgen -W "$load" -- "$word")) ;;
    run) COMPREPLY=($(compgen -W "--recommend-share --last-share --k --include-seen $load" -- "$word")) ;;
    check) COMPREPLY=($(compgen -W "--nodes --acked --events-per-user --give-up --timeout --json --help" -- "$word")) ;;
    esac
    [[ $word == -* ]] || COMPREPLY+=($(compgen -f -- "$word"))
}

complete -F _dunlin dunlin
complete -F _dunlin_replay dunlin-replay
