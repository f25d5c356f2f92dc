//! Which connection gives way.

use super::*;

const PATIENCE: ConnectionLimits = ConnectionLimits {
    head: Duration::from_secs(3),
    idle: Duration::from_secs(10),
    write: Duration::from_secs(10),
};

const SECOND: Duration = Duration::from_secs(1);

fn connections<const N: usize>(
    (most, heads_more): (usize, usize),
    now: Instant,
) -> (Arc<Connections>, [ConnectionSlot; N]) {
    let connections = Arc::new(Connections::new(most, heads_more, PATIENCE));
    let places = [(); N].map(|()| connections.place(now).unwrap());
    (connections, places)
}

fn is_closed(place: &ConnectionSlot) -> bool {
    place.progress.closed.is_cancelled()
}

fn answer(place: &ConnectionSlot, now: Instant) {
    place.progress.answered();
    place.progress.flushed(now);
}

#[test]
fn a_flood_of_heads_closes_its_own_oldest_and_no_other_connection() {
    let now = Instant::now();
    let (connections, [served, idle]) = connections((3, 2), now);
    assert_eq!(served.try_begin(now), Some(true));
    assert_eq!(idle.try_begin(now), Some(true));
    answer(&idle, now);
    let mut heads: Vec<_> = (0..3).map(|_| connections.place(now).unwrap()).collect();
    assert!(!heads.iter().any(is_closed), "there is room for five");
    for closed in 1..=10 {
        heads.push(connections.place(now).unwrap());
        let gone: Vec<_> = heads.iter().map(is_closed).collect();
        assert_eq!(gone.iter().filter(|gone| **gone).count(), closed);
        assert!(gone.iter().take(closed).all(|gone| *gone), "the oldest go");
    }
    assert!(!is_closed(&idle) && !is_closed(&served));
    // One whose head is whole gives way to none of them.
    assert_eq!(heads[10].try_begin(now), Some(true));
    heads.extend((0..10).map(|_| connections.place(now).unwrap()));
    assert!(!is_closed(&heads[10]) && !is_closed(&idle) && !is_closed(&served));
}

#[test]
fn above_the_limit_an_old_head_gives_way_and_a_young_one_has_time_to_become_whole() {
    let now = Instant::now();
    let (connections, [old, served]) = connections((2, 100), now);
    assert_eq!(served.try_begin(now), Some(true));
    let young = connections.place(now + SECOND).unwrap();
    assert!(is_closed(&old) && !is_closed(&young));
    let last = connections.place(now + SECOND).unwrap();
    assert!(!is_closed(&young) && !is_closed(&last));
    assert!(
        !old.progress.begin(now),
        "a request began on a closed connection"
    );
}

#[tokio::test]
async fn a_whole_head_takes_the_place_of_an_idle_connection_and_waits_where_none_is() {
    let now = Instant::now();
    let (connections, [served, idle]) = connections((2, 2), now);
    assert_eq!(served.try_begin(now), Some(true));
    assert_eq!(idle.try_begin(now), Some(true));
    answer(&idle, now);
    let now = now + SECOND;
    let next = connections.place(now).unwrap();
    assert!(!is_closed(&idle));
    assert_eq!(next.try_begin(now), Some(true));
    assert!(is_closed(&idle) && !is_closed(&served));
    // Both places are being served: the next one waits until one has ended.
    let last = connections.place(now).unwrap();
    assert_eq!(last.try_begin(now + 60 * SECOND), None);
    let waits = tokio::spawn(async move { last.begin().await });
    drop(served);
    assert!(waits.await.unwrap());
}

#[test]
fn a_client_that_owes_a_body_or_does_not_read_gives_way_where_every_head_is_whole() {
    let now = Instant::now();
    let (connections, [owes, unread]) = connections((2, 3), now);
    assert_eq!(owes.try_begin(now), Some(true));
    assert_eq!(unread.try_begin(now), Some(true));
    owes.progress.set_owes(true, now);
    unread.progress.blocked(now);
    let [third, fourth] = [(); 2].map(|()| connections.place(now).unwrap());
    assert_eq!(third.try_begin(now), None, "neither has stalled yet");
    let now = now + STALL;
    assert_eq!(third.try_begin(now), Some(true));
    assert!(is_closed(&owes) && !is_closed(&unread));
    // What it takes counts.
    unread.progress.wrote(1, now);
    assert_eq!(fourth.try_begin(now), None);
    assert_eq!(fourth.try_begin(now + STALL), Some(true));
    assert!(is_closed(&unread));
}

#[test]
fn clients_that_take_too_long_are_closed() {
    let now = Instant::now();
    let (connections, [head, idle, slow, reads, served]) = connections((9, 0), now);
    for place in [&idle, &slow, &reads, &served] {
        assert!(place.progress.begin(now));
    }
    answer(&idle, now);
    slow.progress.blocked(now);
    reads.progress.blocked(now);
    for second in 1..=10 {
        let now = now + second * SECOND;
        head.progress.read(now);
        slow.progress.wrote(1, now);
        reads.progress.wrote(PROGRESS_BYTES, now);
        reads.progress.blocked(now);
        connections.close_overdue(now);
        assert_eq!(is_closed(&head), second >= 3);
        assert_eq!(
            (is_closed(&idle), is_closed(&slow)),
            (second == 10, second == 10)
        );
    }
    assert!(!is_closed(&reads) && !is_closed(&served));
}

#[test]
fn the_time_for_a_head_begins_with_its_first_byte() {
    let now = Instant::now();
    let (_connections, [place]) = connections((1, 0), now);
    assert!(place.progress.begin(now));
    place.progress.answered();
    // What is not written yet is still being served.
    assert_eq!(place.progress.overdue(&PATIENCE, now + PATIENCE.idle), None);
    place.progress.flushed(now);
    let now = now + 9 * SECOND;
    place.progress.read(now);
    place.progress.read(now + 2 * SECOND);
    assert_eq!(place.progress.overdue(&PATIENCE, now + 2 * SECOND), None);
    assert!(
        place
            .progress
            .overdue(&PATIENCE, now + PATIENCE.head)
            .is_some()
    );
}

#[test]
fn connections_that_have_ended_leave_nothing_behind() {
    let now = Instant::now();
    let (connections, [kept]) = connections((4, 4), now);
    for _ in 0..1_000 {
        let served = connections.place(now).unwrap();
        assert_eq!(served.try_begin(now), Some(true));
        drop(connections.place(now).unwrap());
    }
    let open = connections.lock();
    assert_eq!(
        (open.all.len(), open.pending.len(), open.served.len()),
        (1, 1, 0)
    );
    drop(open);
    drop(kept);
}
