# Loaded after the suite's own procedures, in the run through respmux only.
#
# The suite uses DEBUG to look at the server (DIGEST, RELOAD, OBJECT …), and respmux refuses DEBUG. So that the
# tests themselves can still be judged, a blocking client's DEBUG goes straight to the server, on a connection of
# its own that is in the database of the suite. A client that reads its replies later keeps sending DEBUG through
# respmux, since the order of its replies would change otherwise.
namespace eval past {
    set link {}
}

proc past::debug {words} {
    variable link
    if {$link eq {}} {
        set link [redis 127.0.0.1 $::env(SUITE_SERVER_PORT)]
        if {!$::singledb} { $link select 9 }
    }
    if {[catch {$link debug {*}$words} reply]} {
        # A lost connection is opened again next time; an error reply is the caller's.
        if {[string match "I/O*" $reply]} { set link {} }
        return -code error $reply
    }
    return $reply
}

rename ::redis::__dispatch__raw__ ::redis::__dispatch__unchanged__
proc ::redis::__dispatch__raw__ {id method argv} {
    if {[string equal -nocase $method debug] && $::redis::blocking($id) && !$::redis::deferred($id)
            && [lindex $::redis::addr($id) 1] == $::env(SUITE_PROXY_PORT)} {
        return [past::debug $argv]
    }
    uplevel 1 [list ::redis::__dispatch__unchanged__ $id $method $argv]
}

# The same for the replication stream, which the suite reads to see what a command became. SYNC is refused too.
rename attach_to_replication_stream past::attach
proc attach_to_replication_stream {} {
    set proxied [lindex $::servers end]
    lset ::servers end [dict replace $proxied port $::env(SUITE_SERVER_PORT)]
    set failed [catch {past::attach} stream]
    lset ::servers end $proxied
    return -code $failed $stream
}
