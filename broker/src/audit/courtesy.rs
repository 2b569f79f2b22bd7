//! When the writer gets the processor.

/// From now on this thread, called, waits until the caller's has nothing to do or has had its share, wherever both need the
/// same processor. By default it would cut in at each call: it would write few records at a time, and each of them would
/// cost two switches. On a processor of its own it starts at once, as ever.
#[expect(unsafe_code, reason = "no safe binding of this system call is among the dependencies")]
pub(super) fn never_cut_in() {
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one structure, which lives as long as the call, and writes nothing.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const priority) } != 0;
    if refused {
        tracing::debug!("the audit writer's scheduling cannot be changed here, which costs some throughput");
    }
}
