//! What waits for callers: requests that they have begun to send, and answers that they have not read. A caller that keeps too much
//! waiting, or for too long, loses its connection, so that it cannot take the memory or the turn of others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{Limits, connection::Peer, metrics::Disconnected};

/// Nobody is cut off sooner, however much waits: an honest caller may be slow for a moment.
const PATIENCE_MIN: Duration = Duration::from_millis(100);
/// How often to check for callers that have kept something waiting for too long.
const LOOK: Duration = Duration::from_millis(100);

/// Everything that waits for the callers of one server.
#[derive(Debug)]
pub(super) struct Waiting {
    waits: Mutex<Waits>,
    stall_timeout: Duration,
    bytes_max: usize,
    /// Notified when less waits than the limit.
    told: Notify,
    disconnected: Disconnected,
}

#[derive(Debug, Default)]
struct Waits {
    /// What may wait only for a limited time. The numbers grow, so that the map is sorted by age: what has waited longest comes
    /// first.
    hurried: BTreeMap<u64, Wait>,
    /// What may wait as long as there is room.
    patient: BTreeMap<u64, Wait>,
    /// The bytes that waited for connections which are cut off. They take memory until these connections are gone.
    cut_off: BTreeMap<u64, usize>,
    next: u64,
    /// The bytes of everything that waits, including what is cut off.
    bytes: usize,
    bytes_cut_off: usize,
}

#[derive(Debug)]
struct Wait {
    since: Instant,
    bytes: usize,
    peer: Arc<Peer>,
}

/// How long something may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    /// For the limited time that answers have.
    Little,
    /// As long as there is room: a stream's reader may have other things to do.
    Endless,
}

impl Waits {
    fn of(&mut self, patience: Patience) -> &mut BTreeMap<u64, Wait> {
        match patience {
            Patience::Little => &mut self.hurried,
            Patience::Endless => &mut self.patient,
        }
    }

    /// The oldest entry that has to be cut off, if any.
    fn due(&self, waiting: &Waiting) -> Option<(Patience, u64)> {
        let first = |patience, waits: &BTreeMap<u64, Wait>| {
            let (&number, wait) = waits.first_key_value()?;
            Some((number, patience, wait.since.elapsed()))
        };
        let hurried = first(Patience::Little, &self.hurried);
        let patient = first(Patience::Endless, &self.patient);
        if let Some((number, patience, waited)) = hurried
            && waited > waiting.stall_timeout
        {
            return Some((patience, number));
        }
        let longest = hurried.into_iter().chain(patient).min();
        let (number, patience, waited) = longest?;
        let is_full = self.bytes - self.bytes_cut_off >= waiting.bytes_max;
        (is_full && waited > PATIENCE_MIN).then_some((patience, number))
    }

    fn cut_off(&mut self, patience: Patience, number: u64) -> Option<Wait> {
        let wait = self.of(patience).remove(&number)?;
        self.cut_off.insert(number, wait.bytes);
        self.bytes_cut_off += wait.bytes;
        Some(wait)
    }

    /// Appends an entry, and returns its number.
    fn begin(&mut self, patience: Patience, peer: Arc<Peer>, bytes: usize) -> u64 {
        self.next += 1;
        let number = self.next;
        let wait = Wait {
            since: Instant::now(),
            bytes,
            peer,
        };
        self.of(patience).insert(number, wait);
        number
    }

    fn add(&mut self, turn: &Turn, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.bytes += bytes;
        let number = turn.number.load(Ordering::Relaxed);
        if let Some(wait) = self.of(turn.patience).get_mut(&number) {
            wait.bytes += bytes;
        } else if let Some(cut_off) = self.cut_off.get_mut(&number) {
            *cut_off += bytes;
            self.bytes_cut_off += bytes;
        } else {
            let number = self.begin(turn.patience, turn.peer.clone(), bytes);
            turn.number.store(number, Ordering::Relaxed);
        }
    }

    /// Takes this many bytes from an entry, or all of them if it has fewer.
    fn take(&mut self, turn: &Turn, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let number = turn.number.load(Ordering::Relaxed);
        if let Some(wait) = self.of(turn.patience).remove(&number) {
            let bytes = bytes.min(wait.bytes);
            self.bytes -= bytes;
            let left = wait.bytes - bytes;
            if left > 0 {
                let number = self.begin(turn.patience, wait.peer, left);
                turn.number.store(number, Ordering::Relaxed);
            }
        } else if let Some(left) = self.cut_off.get_mut(&number) {
            let bytes = bytes.min(*left);
            self.bytes -= bytes;
            self.bytes_cut_off -= bytes;
            *left -= bytes;
            if *left == 0 {
                self.cut_off.remove(&number);
            }
        }
    }
}

impl Waiting {
    /// An empty list. A task checks it until it is dropped.
    pub(super) fn new(limits: &Limits, disconnected: Disconnected) -> Arc<Waiting> {
        let waiting = Arc::new(Waiting {
            waits: Mutex::default(),
            stall_timeout: limits.stall_timeout,
            bytes_max: limits.stalled_bytes,
            told: Notify::new(),
            disconnected,
        });
        tokio::spawn(look_after(Arc::downgrade(&waiting)));
        waiting
    }

    /// Adds something of this size that waits for a caller, until the returned value is dropped.
    pub(super) fn begin(
        self: &Arc<Self>,
        peer: &Arc<Peer>,
        bytes: usize,
        patience: Patience,
    ) -> Turn {
        let turn = Turn {
            waiting: self.clone(),
            peer: peer.clone(),
            patience,
            number: AtomicU64::new(0),
        };
        turn.add(bytes);
        turn
    }

    /// Whether less waits than the limit, including what is cut off and not gone yet.
    pub(super) fn has_room(&self) -> bool {
        self.lock().bytes < self.bytes_max
    }

    /// Waits until less waits than the limit. Then more may be made for the callers.
    pub(super) async fn room(self: Arc<Self>) {
        while !self.has_room() {
            let told = self.told.notified();
            tokio::pin!(told);
            // From here on no notification is missed.
            told.as_mut().enable();
            if self.has_room() {
                return;
            }
            told.await;
        }
    }

    /// Cuts off those who keep something waiting for too long. While too much waits, cuts off the oldest.
    fn cut_off(&self, waits: &mut Waits) {
        while let Some((patience, number)) = waits.due(self) {
            let wait = waits.cut_off(patience, number);
            let wait = wait.expect("it was just seen");
            if !wait.peer.cut.send_replace(true) {
                self.disconnected.because("stalled");
                tracing::warn!(
                    waited_ms = wait.since.elapsed().as_millis(),
                    bytes = wait.bytes,
                    "a connection is ended: its caller does not read on, or send on"
                );
            }
        }
    }

    /// The bytes of everything that waits.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> MutexGuard<'_, Waits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn look_after(waiting: Weak<Waiting>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(waiting) = waiting.upgrade() else {
            return;
        };
        waiting.cut_off(&mut waiting.lock());
    }
}

/// What waits for a caller because of one of its calls. It is in the list while it has any bytes.
#[derive(Debug)]
pub(super) struct Turn {
    waiting: Arc<Waiting>,
    peer: Arc<Peer>,
    patience: Patience,
    /// Its number in the list, or the last one that it had. It changes only while the list is locked.
    number: AtomicU64,
}

impl Turn {
    /// Adds bytes to it.
    pub(super) fn add(&self, bytes: usize) {
        self.exchange(0, bytes);
    }

    /// The caller has read at most this many bytes. The rest waits anew from now on.
    pub(super) fn take(&self, bytes: usize) {
        if bytes > 0 {
            self.exchange(bytes, 0);
        }
    }

    /// Takes bytes that the caller has read, and adds others.
    pub(super) fn exchange(&self, read: usize, added: usize) {
        let mut waits = self.waiting.lock();
        let was_full = waits.bytes >= self.waiting.bytes_max;
        waits.take(self, read);
        waits.add(self, added);
        let is_full = waits.bytes >= self.waiting.bytes_max;
        if is_full {
            self.waiting.cut_off(&mut waits);
        } else if was_full {
            self.waiting.told.notify_waiters();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.take(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{Semaphore, watch};

    use super::*;

    fn peer() -> (Arc<Peer>, watch::Receiver<bool>) {
        let (cut, is_cut) = watch::channel(false);
        let peer = Peer {
            name: "test".into(),
            certified: Vec::new(),
            pages: Arc::new(Semaphore::new(1)),
            cut,
        };
        (Arc::new(peer), is_cut)
    }

    fn waiting(stall_timeout: Duration, stalled_bytes: usize) -> Arc<Waiting> {
        let limits = Limits {
            stall_timeout,
            stalled_bytes,
            ..Limits::default()
        };
        Waiting::new(&limits, Disconnected::default())
    }

    #[tokio::test]
    async fn who_waits_too_long_is_cut_off_and_who_goes_on_is_not() {
        let waiting = waiting(Duration::from_millis(10), 1 << 20);
        let ((slow, slow_is_cut), (quick, quick_is_cut)) = (peer(), peer());
        let slow = waiting.begin(&slow, 100, Patience::Little);
        drop(waiting.begin(&quick, 100, Patience::Little));
        let streaming = waiting.begin(&quick, 100, Patience::Endless);
        // The task checks without any further call.
        let mut cut = slow_is_cut.clone();
        let cut = cut.wait_for(|cut| *cut);
        tokio::time::timeout(Duration::from_secs(20), cut)
            .await
            .expect("it is cut off")
            .unwrap();
        assert!(!*quick_is_cut.borrow());
        assert_eq!(waiting.bytes(), 200);
        drop(streaming);
        assert_eq!(waiting.bytes(), 100);
        drop(slow);
        assert_eq!(waiting.bytes(), 0);
    }

    #[tokio::test]
    async fn while_too_much_waits_the_longest_waiting_is_cut_off() {
        let waiting = waiting(Duration::from_secs(3600), 1000);
        let peers: Vec<_> = (0..3).map(|_| peer()).collect();
        let mut turns: Vec<_> = peers
            .iter()
            .zip([Patience::Endless, Patience::Little, Patience::Little])
            .map(|((peer, _), patience)| waiting.begin(peer, 300, patience))
            .collect();
        let is_cut = || -> Vec<bool> { peers.iter().map(|(_, cut)| *cut.borrow()).collect() };
        tokio::time::sleep(PATIENCE_MIN + Duration::from_millis(50)).await;
        turns[2].add(99);
        assert_eq!(is_cut(), [false; 3]);
        soon(waiting.clone().room()).await;
        // The oldest is told to go. No other one goes because of what it still takes.
        turns[2].add(1);
        turns[0].add(5000);
        assert_eq!(is_cut(), [true, false, false]);
        assert!(!waiting.has_room());
        // Once it has gone there is room.
        drop(turns.remove(0));
        soon(waiting.clone().room()).await;
        assert_eq!(waiting.bytes(), 700);
        assert_eq!(is_cut(), [true, false, false]);
    }

    async fn soon(what: impl Future<Output = ()>) {
        let soon = tokio::time::timeout(Duration::from_secs(20), what);
        soon.await.expect("it comes to pass");
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_waits_until_others_have_read() {
        let waiting = waiting(Duration::from_secs(3600), 1000);
        let (peer, is_cut) = peer();
        let turn = waiting.begin(&peer, 1000, Patience::Little);
        let waits = tokio::time::timeout(Duration::from_millis(10), waiting.clone().room());
        assert!(waits.await.is_err());
        drop(turn);
        soon(waiting.clone().room()).await;
        assert!(!*is_cut.borrow());
    }
}
