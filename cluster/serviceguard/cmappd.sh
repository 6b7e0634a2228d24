#!/bin/bash
#
# External script of a modular Serviceguard package: applications in the guest that is its VM.
#
#   external_script  /usr/local/share/cmappd/serviceguard/cmappd.sh
#
# It comes after the script that starts the VM. With PEV_CMAPPD_APPS, start and stop are about
# these; without, cmappmgr runs as services, and only validate has something to do.
# docs/serviceguard.md has the parameters, and what each exit code means; examples/ has packages.

PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

if [ -z "$SG_UTILS" ]; then
    . /etc/cmcluster.conf || exit 2
    SG_UTILS=$SGCONF/scripts/mscripts/utils.sh
fi
. "$SG_UTILS" || exit 2
. "${BASH_SOURCE[0]%/*}/cmappd-apps.sh" || exit 2
sg_source_pkg_env "$@"

CMAPPD_APPS=$PEV_CMAPPD_APPS
CMAPPD_GUEST=$PEV_CMAPPD_GUEST
CMAPPD_START_TIMEOUT=$PEV_CMAPPD_START_TIMEOUT
CMAPPD_STOP_TIMEOUT=$PEV_CMAPPD_STOP_TIMEOUT
CMAPPD_ANSWER_TIMEOUT=$PEV_CMAPPD_ANSWER_TIMEOUT
CMAPPD_CONFIG=$PEV_CMAPPD_CONFIG
CMAPPD_PROGRAM=$PEV_CMAPPD_PROGRAM

cmappd_log() {
    sg_log 0 "cmappd: $*"
}

# All that is wrong is said, not only the first of it.
validate() {
    local apps app services=() index code=0
    read -ra apps <<<"$CMAPPD_APPS"
    for app in "${apps[@]}"; do
        cmappd_ask "$app" check "$CMAPPD_ANSWER_TIMEOUT"
        judge "$?" "application $app" || code=1
    done
    for index in "${!SG_SERVICE_CMD[@]}"; do
        ! is_manager "${SG_SERVICE_CMD[index]}" || services+=("$index")
    done
    for index in "${services[@]}"; do
        validate_service "service ${SG_SERVICE_NAME[index]}" "${SG_SERVICE_CMD[index]}" || code=1
    done
    if [ "${#apps[@]}" -eq 0 ] && [ "${#services[@]}" -eq 0 ]; then
        cmappd_log "ERROR: neither PEV_CMAPPD_APPS nor a service_cmd with cmappmgr is there"
        code=1
    fi
    return "$code"
}

# Whether a service is cmappmgr: the first of its words that is no variable, exec or env.
is_manager() {
    local words word
    read -ra words <<<"${1//[\"\']/}"
    for word in "${words[@]}"; do
        case $word in
            [A-Za-z_]*=* | exec | env | */env) ;;
            cmappmgr | */cmappmgr) return 0 ;;
            *) return 1 ;;
        esac
    done
    return 1
}

# Its words are split by a shell that has what that of a service has: no environment.
validate_service() {
    local simple
    simple=$(simple_command "$2")
    env -i /bin/bash -c "$(declare -f check_words); eval \"words=(\$1)\" 2>/dev/null
        check_words \"\$2\" \"\${words[@]}\"" cmappd "$simple" "${CMAPPD_ANSWER_TIMEOUT}s"
    judge "$?" "$1"
}

# A command without its comment and redirections; nothing where a shell could run some of it while it
# splits it into a list of words. What else makes more than one command is wrong in such a list.
simple_command() {
    local command=${1%%[[:blank:]]#*}
    local redirection='^(.*)[[:blank:]][0-9&]*[<>]+&?[[:blank:]]*[^[:blank:]"<>&|;'\'']+[[:blank:]]*$'
    while [[ $command =~ $redirection ]]; do
        command=${BASH_REMATCH[1]}
    done
    case $command in
        *[\(\)\`]*) ;;
        *) printf '%s\n' "$command" ;;
    esac
}

# SECONDS WORD...: run cmappmgr with --check, and nothing else of the words. What the manager would
# take over or write when it runs is left out.
check_words() {
    local timeout=$1 variables=() options=()
    while shift; do
        case $1 in
            [A-Za-z_]*=*) variables+=("$1") ;;
            exec | env | */env) ;;
            *) break ;;
        esac
    done
    case $1 in
        /*/cmappmgr) ;;
        cmappmgr | */cmappmgr)
            echo 'cmappmgr needs its whole path, because a service has no PATH'
            return 200
            ;;
        *)
            echo 'cmappmgr must be one simple command, so that its end is the end of the service'
            return 200
            ;;
    esac
    local program=$1
    while shift && [ $# -gt 0 ]; do
        case $1 in
            --takeover | --report=*) ;;
            --report) shift ;;
            *) options+=("$1") ;;
        esac
    done
    env -i "${variables[@]}" "$program" --check --timeout "$timeout" "${options[@]}"
}

# A package may well be configured while its VM is down, and so nobody answers.
judge() {
    case $1 in
        0) ;;
        201 | 202) cmappd_log "$2: the guest does not answer, so nothing is known of it there" ;;
        *)
            cmappd_log "ERROR: $2 cannot be run from this node, see above (exit $1)"
            return 1
            ;;
    esac
}

cmappd_settings || exit 1
case $1 in
    start) cmappd_start ;;
    stop) cmappd_stop ;;
    validate) validate ;;
    *)
        printf 'usage: %s {start|stop|validate}\n' "$0" >&2
        exit 1
        ;;
esac
