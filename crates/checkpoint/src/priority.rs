//! How threads beside training (those that write, those that repeat updates) give way to those that train.

/// Lowers this thread's priority, and keeps it from pushing aside who runs when it is woken (with a capture by the
/// thread that trains, and whenever the disk is done with a request), where there are such things.
pub fn yield_to_others(nice: i32) {
    #[cfg(target_os = "linux")]
    if nice > 0 {
        // SAFETY: the calls take plain numbers, and a parameter that outlives the call and is valid as zeroes (the
        // only value for this policy); 0 means the calling thread. Their failure changes nothing but when the thread
        // runs.
        unsafe {
            let _ = libc::setpriority(libc::PRIO_PROCESS, 0, nice);
            let parameter: libc::sched_param = std::mem::zeroed();
            let _ = libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}
