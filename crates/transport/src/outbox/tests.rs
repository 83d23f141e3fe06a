//! Callers that write their frames themselves.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use super::*;

fn tag(index: u32) -> Tag {
    Tag::new(TagKind::Eval, 0, index)
}

fn far() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Takes 10 bytes of the first frame, while another caller queues a second one and the writer gets time
/// to run.
struct Slow(Weak<Outbox>, Arc<Inbox>, Mutex<bool>);

impl Line for Slow {
    fn write_now(&self, _tag: Tag, _payload: &[u8]) -> usize {
        let first = !std::mem::replace(&mut *self.2.lock().unwrap(), true);
        assert!(first, "the line isn't idle for the second frame");
        self.0
            .upgrade()
            .unwrap()
            .push(tag(2), Payload::empty(), far(), &self.1)
            .unwrap();
        std::thread::sleep(Duration::from_millis(50));
        10
    }
}

#[test]
fn nothing_overtakes_a_frame_its_caller_has_half_written() {
    let counters = Arc::new(Counters::default());
    let inbox = Arc::new(Inbox::new(&BTreeMap::new(), 1000, 1000));
    let outbox = Arc::new(Outbox::new(RankId(1), counters, 10_000, 10));
    outbox.set_line(Box::new(Slow(
        Arc::downgrade(&outbox),
        Arc::clone(&inbox),
        Mutex::new(false),
    )));
    let (order, written) = channel();
    std::thread::scope(|scope| {
        let writer = Arc::clone(&outbox);
        scope.spawn(move || {
            while let Next::Write(batch) = writer.take(1, 1) {
                order.send((batch[0].tag, batch[0].skip)).unwrap();
                writer.written(batch);
            }
        });
        outbox
            .push(tag(1), Payload::vec(vec![1_u8; 20]), far(), &inbox)
            .unwrap();
        outbox.flush(far(), &inbox).unwrap();
        outbox.close();
    });
    assert_eq!(written.iter().collect::<Vec<_>>(), [(tag(1), 10), (tag(2), 0)]);
}
