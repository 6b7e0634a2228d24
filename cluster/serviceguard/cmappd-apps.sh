# Start and stop applications in a guest by cmappmgr, one after the other; bash.
#
# For cmappd.sh and cmappd-legacy.sh, which set CMAPPD_... and define cmappd_log. What cmappmgr
# writes goes where the script's own words go, to the package log. docs/serviceguard.md has the
# table of what each reason of cmappmgr becomes.

# Fill in what is not set. 1, after a word, where that is wrong on every node.
cmappd_settings() {
    local each
    : "${CMAPPD_START_TIMEOUT:=300}" "${CMAPPD_STOP_TIMEOUT:=300}" "${CMAPPD_ANSWER_TIMEOUT:=10}"
    for each in CMAPPD_START_TIMEOUT CMAPPD_STOP_TIMEOUT CMAPPD_ANSWER_TIMEOUT; do
        case ${!each} in
            0* | *[!0-9]*)
                cmappd_log "ERROR: $each is '${!each}', which is no number of seconds"
                return 1
                ;;
        esac
    done
    [ -z "$CMAPPD_PROGRAM" ] || return 0
    for CMAPPD_PROGRAM in /usr/bin/cmappmgr /opt/cmappd/bin/cmappmgr /usr/local/bin/cmappmgr; do
        [ ! -x "$CMAPPD_PROGRAM" ] || return 0
    done
}

# All, in order. 0: they run, and are ready; 1: so it would be on any node; 2: another may do better.
cmappd_start() {
    local apps app code started=()
    read -ra apps <<<"$CMAPPD_APPS"
    for app in "${apps[@]}"; do
        started=("$app" "${started[@]}")
        cmappd_start_one "$app" && continue
        code=$?
        cmappd_log "ERROR: $app was not started; stopping ${started[*]}"
        cmappd_stop_each "${started[@]}"
        return "$code"
    done
}

# All, in reverse order. 1 where one of them would not stop.
cmappd_stop() {
    local apps app started=()
    read -ra apps <<<"$CMAPPD_APPS"
    for app in "${apps[@]}"; do
        started=("$app" "${started[@]}")
    done
    cmappd_stop_each "${started[@]}"
}

cmappd_stop_each() {
    local app code=0
    for app; do
        cmappd_stop_one "$app" || code=1
    done
    return "$code"
}

# Three things are tried again: a guest that boots, a manager that is gone and whose lease is not
# over, and what is told, once, of a run that had ended before. A shell of its own, so that its folder
# goes with it, whatever traps the script has; where the script has been killed, it tries no more.
cmappd_start_one() (
    app=$1
    deadline=$(($(cmappd_now) + CMAPPD_START_TIMEOUT))
    folder=$(mktemp -d) || return 2
    trap 'rm -rf "$folder"' EXIT
    while :; do
        left=$((deadline - $(cmappd_now)))
        cmappd_ask "$app" start "$((left > 1 ? left : 1))" --report "$folder/report"
        code=$?
        reason=$(cmappd_reported reason "$folder/report")
        case $reason:$(cmappd_reported earlier "$folder/report") in
            unreachable:* | busy:* | *:true) [ "$left" -gt 1 ] && kill -0 "$$" 2>/dev/null || break ;;
            *) break ;;
        esac
        cmappd_log "$app is tried again"
        sleep 1
    done
    [ "$code" -ne 0 ] || return 0
    [ "$reason" != unknown-app ] || return 1
    return 2
)

# Who does not answer is not waited for: the stop of the VM follows, and ends all in it.
cmappd_stop_one() {
    local app=$1 code
    cmappd_ask "$app" status "$CMAPPD_ANSWER_TIMEOUT"
    code=$?
    if [ "$code" -le 3 ]; then
        cmappd_ask "$app" stop "$CMAPPD_STOP_TIMEOUT"
        code=$?
    fi
    case $code in
        0 | 205) ;;
        206) cmappd_log "$app is another manager's by now, and is left alone" ;;
        215)
            cmappd_log "ERROR: $app would not stop"
            return 1
            ;;
        *) cmappd_log "$app was not asked to stop, or did not answer: the stop of its VM ends it" ;;
    esac
}

# APP VERB SECONDS [OPTION...]
cmappd_ask() {
    "$CMAPPD_PROGRAM" --app "$1" ${CMAPPD_GUEST:+--guest "$CMAPPD_GUEST"} \
        ${CMAPPD_CONFIG:+--config "$CMAPPD_CONFIG"} "--$2" --timeout "$3s" "${@:4}"
}

cmappd_reported() {
    sed -n "s/^  \"$1\": \"*\([a-z-]*\)\"*,*\$/\1/p" "$2" 2>/dev/null
}

# Seconds of the monotonic clock.
cmappd_now() {
    local now
    read -r now _ </proc/uptime
    echo "${now%.*}"
}
