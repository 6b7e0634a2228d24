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
    local apps app services=() index program code=0
    read -ra apps <<<"$CMAPPD_APPS"
    for app in "${apps[@]}"; do
        cmappd_ask "$app" check "$CMAPPD_ANSWER_TIMEOUT"
        judge "$?" "application $app" || code=1
    done
    for index in "${!SG_SERVICE_CMD[@]}"; do
        read -r program _ <<<"${SG_SERVICE_CMD[index]}"
        [ "${program##*/}" != cmappmgr ] || services+=("$index")
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

# The words of the service, run as it will be, and asked to change nothing.
validate_service() {
    case $2 in
        /*) ;;
        *)
            cmappd_log "ERROR: $1: cmappmgr needs its whole path, because a service has no PATH"
            return 1
            ;;
    esac
    env -i /bin/sh -c "$2 --check --timeout ${CMAPPD_ANSWER_TIMEOUT}s"
    judge "$?" "$1"
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
        echo "usage: $0 {start|stop|validate}" >&2
        exit 1
        ;;
esac
