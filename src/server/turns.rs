//! Runs a connection and its answers in one task, in turns: requests are read, some answers go on as far as they can, and what they
//! have to say is written together.
//!
//! If each answer had a task of its own, each would be handed from thread to thread, threads would be woken for it, and it would be
//! written by itself.

use std::{
    future::{Future, poll_fn},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::{
    FutureExt, StreamExt, future::CatchUnwind, stream::FuturesUnordered, task::AtomicWaker,
};
use hyper::rt::Executor;

use super::{connection::Transport, corked::Cork};

/// How many turns follow each other before other tasks are let in.
const TURNS_MAX: usize = 8;
/// How many answers are given in a turn, until they are written. While the client reads them, the next ones are made.
const ANSWERS_MAX: usize = 4;

type Answer = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes answers that begin. They go on in the turns of their connection.
#[derive(Clone, Default)]
pub(super) struct Begun(Arc<Mutex<Vec<Answer>>>);

impl Begun {
    fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Begun {
    fn execute(&self, answer: F) {
        let mut begun = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        begun.push(Box::pin(answer));
    }
}

/// The turns of one connection.
pub(super) struct Turns<T> {
    cork: Cork<T>,
    begun: Begun,
    answers: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Answer>>>,
    task: Arc<Task>,
    /// What wakes the connection, and what wakes the answers.
    of_connection: Part,
    of_answers: Part,
}

/// The task in which the turns run.
#[derive(Default)]
struct Task {
    waker: AtomicWaker,
    /// While it runs it looks by itself for what was woken.
    is_running: AtomicBool,
}

/// A part of the turns that is woken by itself.
struct Part {
    woken: Arc<Woken>,
    waker: Waker,
}

struct Woken {
    is_woken: AtomicBool,
    task: Arc<Task>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // The task writes `is_running` and then reads `is_woken`. Here it is the other way around, so that one of the two notices.
        self.is_woken.store(true, Ordering::SeqCst);
        if !self.task.is_running.load(Ordering::SeqCst) {
            self.task.waker.wake();
        }
    }
}

impl Part {
    fn of(task: &Arc<Task>) -> Part {
        let woken = Arc::new(Woken {
            is_woken: AtomicBool::new(false),
            task: task.clone(),
        });
        Part {
            waker: Waker::from(woken.clone()),
            woken,
        }
    }

    /// The context for what the part does now. Afterwards it has to be woken again.
    fn begin(&self) -> Context<'_> {
        self.woken.is_woken.store(false, Ordering::SeqCst);
        Context::from_waker(&self.waker)
    }

    fn is_woken(&self) -> bool {
        self.woken.is_woken.load(Ordering::SeqCst)
    }
}

impl<T: Transport> Turns<T> {
    /// The turns of a connection that begins its answers with `begun` and writes through `cork`.
    pub(super) fn new(begun: Begun, cork: Cork<T>) -> Turns<T> {
        let task = Arc::new(Task::default());
        Turns {
            cork,
            begun,
            answers: FuturesUnordered::new(),
            of_connection: Part::of(&task),
            of_answers: Part::of(&task),
            task,
        }
    }

    /// Runs until the connection has ended. Answers that are not given then are dropped with this.
    pub(super) async fn run<C: Future>(&mut self, mut connection: Pin<&mut C>) -> C::Output {
        poll_fn(|cx| self.poll(connection.as_mut(), cx)).await
    }

    fn poll<C: Future>(
        &mut self,
        mut connection: Pin<&mut C>,
        cx: &mut Context<'_>,
    ) -> Poll<C::Output> {
        self.task.waker.register(cx.waker());
        for _ in 0..TURNS_MAX {
            self.task.is_running.store(true, Ordering::SeqCst);
            let mut of_connection = self.of_connection.begin();
            let ended = connection.as_mut().poll(&mut of_connection);
            if ended.is_ready() {
                return ended;
            }
            let has_failed = self.cork.pull(&mut of_connection);
            let has_more = self.answer();
            self.task.is_running.store(false, Ordering::SeqCst);
            let goes_on = has_failed
                || has_more
                || self.of_connection.is_woken()
                || self.of_answers.is_woken();
            if !goes_on {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Lets answers go on. Returns whether there are some that had no turn yet.
    fn answer(&mut self) -> bool {
        let begun = self.begun.take().into_iter();
        self.answers
            .extend(begun.map(|answer| AssertUnwindSafe(answer).catch_unwind()));
        let mut of_answers = self.of_answers.begin();
        for _ in 0..ANSWERS_MAX {
            // The caller of an answer that panics is told that it is gone. The panic itself is reported where it happens.
            let given = self.answers.poll_next_unpin(&mut of_answers);
            if !matches!(given, Poll::Ready(Some(_))) {
                return false;
            }
        }
        true
    }
}

impl<T> Drop for Turns<T> {
    fn drop(&mut self) {
        // An answer knows where others begin. So one that began when its connection ended would keep itself, and what it holds of
        // the store, forever.
        drop(self.begun.take());
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicUsize, thread, time::Duration};

    use futures_util::task::noop_waker;
    use tokio::{io::DuplexStream, sync::oneshot};

    use super::*;
    use crate::server::corked::corked;

    const SOON: Duration = Duration::from_secs(20);

    fn turns() -> (Turns<DuplexStream>, Begun) {
        let begun = Begun::default();
        let (_, cork) = corked(tokio::io::duplex(64).0);
        (Turns::new(begun.clone(), cork), begun)
    }

    /// Counts the answers, and wakes the connection at each, as HTTP/2 does.
    #[derive(Default)]
    struct Given {
        count: AtomicUsize,
        connection: AtomicWaker,
    }

    impl Given {
        fn another(&self) {
            self.count.fetch_add(1, Ordering::SeqCst);
            self.connection.wake();
        }

        /// A connection that ends after so many answers.
        async fn until(&self, end: usize) {
            poll_fn(|cx| {
                self.connection.register(cx.waker());
                if self.count.load(Ordering::SeqCst) == end {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }

    #[tokio::test]
    async fn answers_that_others_wake_are_all_given() {
        const ANSWERS: usize = 2000;
        let (mut turns, begun) = turns();
        let given = Arc::new(Given::default());
        let mut wakers = Vec::new();
        for _ in 0..ANSWERS {
            let (done, waits) = oneshot::channel::<()>();
            wakers.push(done);
            let given = given.clone();
            begun.execute(async move {
                waits.await.unwrap();
                given.another();
            });
        }
        // Answers are woken while the task runs, and while it rests.
        let waking = thread::spawn(move || {
            for (n, done) in wakers.into_iter().enumerate() {
                done.send(()).unwrap();
                if n % 7 == 0 {
                    thread::sleep(Duration::from_micros(50));
                }
            }
        });
        let connection = std::pin::pin!(given.until(ANSWERS));
        let all = tokio::time::timeout(SOON, turns.run(connection)).await;
        all.expect("no waking is lost");
        waking.join().unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_panics_takes_no_other_with_it() {
        let (mut turns, begun) = turns();
        let given = Arc::new(Given::default());
        begun.execute(async { panic!("on purpose") });
        let counted = given.clone();
        begun.execute(async move {
            counted.another();
        });
        let connection = std::pin::pin!(given.until(1));
        let ended = tokio::time::timeout(SOON, turns.run(connection)).await;
        ended.expect("the other is given");
    }

    #[tokio::test]
    async fn an_answer_that_begins_when_its_connection_ends_is_dropped() {
        let (mut turns, begun) = turns();
        let held = Arc::new(());
        let answer = (begun.clone(), held.clone());
        let connection = std::pin::pin!(async {
            begun.execute(async move {
                let _answer = answer;
                std::future::pending::<()>().await;
            });
        });
        turns.run(connection).await;
        drop((turns, begun));
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_busy_connection_lets_other_tasks_in() {
        let (mut turns, begun) = turns();
        begun.execute(poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        let mut connection = std::pin::pin!(std::future::pending::<()>());
        let waker = noop_waker();
        let polled = turns.poll(connection.as_mut(), &mut Context::from_waker(&waker));
        assert!(polled.is_pending());
    }

    #[test]
    fn a_connection_on_which_nothing_happens_rests() {
        let (mut turns, begun) = turns();
        begun.execute(std::future::pending());
        let taken = AtomicUsize::new(0);
        let mut connection = std::pin::pin!(poll_fn(|_| {
            taken.fetch_add(1, Ordering::SeqCst);
            Poll::<()>::Pending
        }));
        let waker = noop_waker();
        let _ = turns.poll(connection.as_mut(), &mut Context::from_waker(&waker));
        // `FuturesUnordered` wakes once more after it has polled all that it has.
        assert!(taken.load(Ordering::SeqCst) <= 2);
    }

    #[test]
    fn what_is_answered_is_written_before_more_is_answered() {
        let (mut turns, begun) = turns();
        let given = Arc::new(Given::default());
        for _ in 0..ANSWERS_MAX * 3 {
            let given = given.clone();
            begun.execute(async move {
                given.another();
            });
        }
        let (seen, counted) = (Mutex::new(Vec::new()), given.clone());
        let mut connection = std::pin::pin!(poll_fn(|_| {
            seen.lock()
                .unwrap()
                .push(counted.count.load(Ordering::SeqCst));
            Poll::<()>::Pending
        }));
        let waker = noop_waker();
        let _ = turns.poll(connection.as_mut(), &mut Context::from_waker(&waker));
        let seen = seen.lock().unwrap();
        assert_eq!(seen[..4], [0, 1, 2, 3].map(|turn| turn * ANSWERS_MAX));
    }
}
