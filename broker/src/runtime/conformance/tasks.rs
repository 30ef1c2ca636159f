//! Tasks, time, chance and the pool.

use super::{About, Site, Verdict, ensure, poll_once, start, within};
use crate::runtime::{OffloadError, Runtime, oneshot};
use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

pub(super) async fn spawned_tasks_all_run<R: Runtime>(site: Site<R>) -> Verdict {
    let ran = Rc::new(Cell::new(0_usize));
    let mut ends = Vec::new();
    for _ in 0..100 {
        let (ran, runtime) = (Rc::clone(&ran), site.runtime.clone());
        ends.push(start(&site.runtime, async move {
            let inner = Rc::clone(&ran);
            let nested = start(&runtime, async move { inner.set(inner.get() + 1) });
            ran.set(ran.get() + 1);
            nested.await
        }));
    }
    for end in ends {
        end.await.about("await a task")?.about("await a task that a task started")?;
    }
    ensure!(ran.get() == 200, "200 tasks were started and {} ran", ran.get());
    Ok(())
}

pub(super) async fn a_yield_lets_the_others_run<R: Runtime>(site: Site<R>) -> Verdict {
    for round in 0..site.effort.rounds {
        let ran = Rc::new(Cell::new(0_usize));
        for _ in 0..10 {
            let ran = Rc::clone(&ran);
            site.runtime.spawn(async move { ran.set(ran.get() + 1) });
        }
        site.runtime.yield_now().await;
        ensure!(ran.get() == 10, "round {round}: of 10 runnable tasks {} ran during a yield", ran.get());
    }
    Ok(())
}

pub(super) async fn a_busy_task_starves_nobody<R: Runtime>(site: Site<R>) -> Verdict {
    let stop = Rc::new(Cell::new(false));
    let (busy_stop, runtime) = (Rc::clone(&stop), site.runtime.clone());
    let busy = start(&site.runtime, async move {
        let mut turns = 0_u64;
        while !busy_stop.get() {
            runtime.yield_now().await;
            turns += 1;
        }
        turns
    });
    let limit = Duration::from_secs(10);
    let slept = within(&site.runtime, limit, site.runtime.sleep(Duration::from_millis(3))).await;
    let pooled = within(&site.runtime, limit, site.runtime.offload(|| 7)).await;
    let listed = within(&site.runtime, limit, site.runtime.read_directory(&site.directory)).await;
    stop.set(true);
    let turns = busy.await.about("await the busy task")?;
    ensure!(slept.is_some(), "a sleep did not end while another task kept yielding");
    ensure!(pooled.is_some(), "offloaded work did not end while another task kept yielding");
    ensure!(listed.is_some(), "a directory was not read while another task kept yielding");
    ensure!(turns > 1, "the yielding task had {turns} turns");
    Ok(())
}

pub(super) async fn sleep_takes_at_least_its_time<R: Runtime>(site: Site<R>) -> Verdict {
    for microseconds in [0_u64, 1, 50, 999, 1_000, 1_500, 20_000] {
        let duration = Duration::from_micros(microseconds);
        let before = site.runtime.monotonic();
        site.runtime.sleep(duration).await;
        let passed = Duration::from_nanos(site.runtime.monotonic().since(before));
        ensure!(passed >= duration, "a sleep of {duration:?} took only {passed:?}");
        ensure!(passed < duration + Duration::from_secs(2), "a sleep of {duration:?} took {passed:?}");
    }
    Ok(())
}

pub(super) async fn sleeps_end_in_their_order<R: Runtime>(site: Site<R>) -> Verdict {
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut ends = Vec::new();
    for milliseconds in [120_u64, 0, 80, 40] {
        let (order, runtime) = (Rc::clone(&order), site.runtime.clone());
        ends.push(start(&site.runtime, async move {
            runtime.sleep(Duration::from_millis(milliseconds)).await;
            order.borrow_mut().push(milliseconds);
        }));
    }
    for end in ends {
        end.await.about("await a sleeping task")?;
    }
    ensure!(*order.borrow() == [0, 40, 80, 120], "sleeps ended in the order {:?}", order.borrow());
    Ok(())
}

pub(super) async fn a_dropped_sleep_is_forgotten<R: Runtime>(site: Site<R>) -> Verdict {
    for _ in 0..100 {
        let mut sleep = pin!(site.runtime.sleep(Duration::from_millis(1)));
        ensure!(poll_once(sleep.as_mut()).await.is_none(), "a sleep of 1 ms was over at once");
    }
    let before = site.runtime.monotonic();
    site.runtime.sleep(Duration::from_millis(10)).await;
    let passed = Duration::from_nanos(site.runtime.monotonic().since(before));
    ensure!(passed >= Duration::from_millis(10), "dropped sleeps cut a later one to {passed:?}");
    Ok(())
}

pub(super) async fn values_pass_between_tasks<R: Runtime>(site: Site<R>) -> Verdict {
    let mut value = 0_u32;
    for _ in 0..500 {
        let (sender, receiver) = oneshot::channel::<u32>();
        let answer = start(&site.runtime, async move { receiver.await.map(|got| got + 1) });
        if value.is_multiple_of(2) {
            site.runtime.yield_now().await;
        }
        sender.send(value);
        value = answer.await.about("await the answer")?.about("pass a value")?;
    }
    ensure!(value == 500, "500 values were passed and {value} came through");
    let (sender, receiver) = oneshot::channel::<u32>();
    site.runtime.spawn(async move { drop(sender) });
    ensure!(receiver.await == Err(oneshot::Closed), "a dropped sender did not close its channel");
    Ok(())
}

pub(super) async fn a_wake_is_never_lost<R: Runtime>(site: Site<R>) -> Verdict {
    let kept: Arc<Mutex<Option<Waker>>> = Arc::default();
    let (slot, polls) = (Arc::clone(&kept), Rc::new(Cell::new(0)));
    let counted = Rc::clone(&polls);
    let end = start(&site.runtime, async move {
        // Wakes itself while it runs, more than once for one pending.
        std::future::poll_fn(|context| {
            counted.set(counted.get() + 1);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
            if counted.get() == 3 {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    });
    let ended = within(&site.runtime, Duration::from_secs(10), end).await;
    ensure!(ended == Some(Ok(())), "a task that woke itself during its poll was not polled again");
    ensure!(polls.get() == 3, "a task that was woken twice was polled {} times", polls.get());
    // The waker of a task that is gone does nothing.
    let waker = kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(waker) = waker else { return Err("no waker was kept".to_owned()) };
    let another = waker.clone();
    waker.wake_by_ref();
    another.wake();
    site.runtime.yield_now().await;
    waker.wake();
    site.runtime.sleep(Duration::from_millis(1)).await;
    ensure!(polls.get() == 3, "a task was polled after its end");
    Ok(())
}

pub(super) async fn offload_gives_back_the_result<R: Runtime>(site: Site<R>) -> Verdict {
    let mut ends = Vec::new();
    for number in 0..32_u64 {
        let runtime = site.runtime.clone();
        ends.push(start(&site.runtime, async move {
            loop {
                match runtime.offload(move || number * number).await {
                    Err(OffloadError::Busy) => runtime.sleep(Duration::from_millis(1)).await,
                    outcome => return outcome,
                }
            }
        }));
    }
    for (number, end) in (0_u64..).zip(ends) {
        let outcome = end.await.about("await the pool")?;
        ensure!(outcome == Ok(number * number), "the pool answered {outcome:?} to work number {number}");
    }
    Ok(())
}

pub(super) async fn offload_wakes_from_its_thread<R: Runtime>(site: Site<R>) -> Verdict {
    for _ in 0..site.effort.rounds {
        let (sender, receiver) = oneshot::channel();
        let task = start(&site.runtime, receiver);
        let done = site.runtime.offload(move || sender.send(5_u8)).await;
        ensure!(done == Ok(()), "the pool answered {done:?}");
        let got = within(&site.runtime, Duration::from_secs(10), task).await;
        ensure!(got == Some(Ok(Ok(5))), "a task that the pool woke got {got:?}");
    }
    Ok(())
}

pub(super) async fn offload_survives_a_panic<R: Runtime>(site: Site<R>) -> Verdict {
    for _ in 0..4 {
        let outcome = site
            .runtime
            .offload(|| {
                // `resume_unwind` is a panic without a message on the terminal.
                std::panic::resume_unwind(Box::new("on purpose"));
            })
            .await;
        ensure!(outcome == Err(OffloadError::Panicked), "work that panicked gave {outcome:?}");
    }
    let after = site.runtime.offload(|| 1).await;
    ensure!(after == Ok(1), "after a panic the pool answered {after:?}");
    Ok(())
}

pub(super) async fn a_turn_has_a_budget<R: Runtime>(site: Site<R>) -> Verdict {
    for _ in 0..3 {
        site.runtime.yield_now().await;
        let before = site.runtime.monotonic();
        let mut asked = 0_u64;
        while !site.runtime.should_yield() {
            asked += 1;
            let passed = Duration::from_nanos(site.runtime.monotonic().since(before));
            ensure!(
                asked < 50_000_000 && (asked < 100_000 || passed < Duration::from_secs(5)),
                "a task that never yields was not told to, asked {asked} times in {passed:?}"
            );
        }
    }
    for _ in 0..1000 {
        site.runtime.yield_now().await;
        if !site.runtime.should_yield() {
            return Ok(());
        }
    }
    Err("after a yield the task's budget was still spent, 1000 times running".to_owned())
}

pub(super) async fn clocks_and_chance_move<R: Runtime>(site: Site<R>) -> Verdict {
    let wall = site.runtime.wall_clock();
    let mut last = site.runtime.monotonic();
    let mut drawn = Vec::new();
    for _ in 0..100 {
        site.runtime.yield_now().await;
        let now = site.runtime.monotonic();
        ensure!(now >= last, "the monotonic clock went from {last} back to {now}");
        last = now;
        drawn.push(site.runtime.random_u64());
    }
    drawn.sort_unstable();
    drawn.dedup();
    ensure!(drawn.len() == 100, "of 100 random numbers only {} differ", drawn.len());
    let set = drawn.iter().fold((0_u64, u64::MAX), |(any, all), &number| (any | number, all & number));
    ensure!(set == (u64::MAX, 0), "some bits never change in 100 random numbers");
    ensure!(wall.0 > 946_684_800_000, "the wall clock stands at {wall} ms, before the year 2000");
    let shard = site.runtime.shard();
    let other = site.runtime.clone();
    let seen = start(&site.runtime, async move { other.shard() }).await.about("await a task")?;
    ensure!(seen == shard, "a task of shard {shard} ran on shard {seen}");
    Ok(())
}
