# Loaded after the suite's own procedures, in the run through respmux only.
#
# The suite reads the replication stream to see what a command became. SYNC is refused by respmux, so that stream comes
# straight from the server; everything else, DEBUG too, goes through respmux.
namespace eval past {}

rename attach_to_replication_stream past::attach
proc attach_to_replication_stream {} {
    set proxied [lindex $::servers end]
    lset ::servers end [dict replace $proxied port $::env(SUITE_SERVER_PORT)]
    set failed [catch {past::attach} stream]
    lset ::servers end $proxied
    return -code $failed $stream
}
