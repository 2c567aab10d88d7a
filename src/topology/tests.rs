use core::net::SocketAddr;

use super::*;

fn placed(id: u16, address: &'static str) -> Placement<&'static str> {
    Placement { id: NodeId::numbered(id), role: Role::Primary, address, server: 0, rotation: 0 }
}

#[test]
fn each_event_of_a_standalone_server_is_one_change() {
    let mut source = Standalone::new("redis:6379");
    let (nothing, id) = (Topology::new(Vec::new()), NodeId::ONLY);
    let mut before = source.topology();
    assert_eq!(nothing.diff(&before), [Change::Added(id, "redis:6379")]);
    let mut step = |next: Topology<&'static str>| {
        let changes = before.diff(&next);
        before = next;
        changes
    };
    assert_eq!(step(source.on_configured("redis:6379", false)), [], "nothing that a connection knows of");
    assert_eq!(step(source.on_configured("redis:6379", true)), [Change::Rotated(id)]);
    assert_eq!(step(source.on_reconnect()), [Change::Rotated(id)]);
    assert_eq!(step(source.on_moved()), [Change::Replaced(id)]);
    assert_eq!(step(source.on_configured("other:6379", true)), [Change::Readdressed(id, "other:6379")]);
}

#[test]
fn a_node_keeps_its_id_when_others_come() {
    let old = Topology::new(vec![placed(1, "a"), placed(2, "b")]);
    let new = Topology::new(vec![placed(3, "c"), placed(2, "b"), placed(1, "a")]);
    assert_eq!(old.diff(&new), [Change::Added(NodeId::numbered(3), "c")]);
    assert_eq!((old.pick(Target::Any), new.pick(Target::Any)), (Some(NodeId(1)), Some(NodeId(3))));
    assert_eq!(Topology::<&str>::new(Vec::new()).pick(Target::Any), None);
}

#[test]
fn the_greatest_change_of_a_node_includes_the_others() {
    let old = Topology::new(vec![placed(1, "a")]);
    let mut moved = placed(1, "b");
    (moved.server, moved.rotation) = (1, 1);
    assert_eq!(old.diff(&Topology::new(vec![moved])), [Change::Readdressed(NodeId::numbered(1), "b")]);
}

#[test]
fn a_connection_to_an_address_that_the_name_has_left_must_move_once() {
    let mut peers = PeerAddresses::default();
    let [one, two] = ["10.0.0.1:6379", "10.0.0.2:6379"].map(|text| text.parse::<SocketAddr>().ok());
    let both: Vec<_> = [one, two].into_iter().flatten().collect();
    peers.on_connected(None);
    assert!(!peers.on_resolved(&both), "nothing stands");
    peers.on_connected(one);
    assert!(!peers.on_resolved(&both) && !peers.on_resolved(&both[..1]));
    assert!(!peers.on_resolved(&[]), "no name");
    peers.on_connected(two);
    assert!(peers.on_resolved(&both[1..]) && !peers.on_resolved(&both[1..]), "once");
}
