# Applications in a guest, for the control script of a legacy Serviceguard package; bash.
#
#   CMAPPD_APPS="web db"
#   . /usr/local/share/cmappd/serviceguard/cmappd-legacy.sh
#
# Then customer_defined_run_cmds calls cmappd_run_cmds, and customer_defined_halt_cmds calls
# cmappd_halt_cmds, each with test_return after it: see examples/legacy.cntl. What may be set is in
# docs/serviceguard.md; a legacy package is not validated, so it is checked with each of the two.

. "${BASH_SOURCE[0]%/*}/cmappd-apps.sh"

cmappd_log() {
    printf '%s cmappd: %s\n' "$(date '+%b %e %T')" "$*"
}

cmappd_run_cmds() {
    cmappd_settings && cmappd_start
}

cmappd_halt_cmds() {
    cmappd_settings && cmappd_stop
}
