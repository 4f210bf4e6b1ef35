//! Being asked to end.

/// Resolves when the user presses Ctrl-C or the system asks the process to end. Signals count from the call on, not from the first time that
/// the future is awaited: call it before anybody is told that something is ready. Where signals cannot be had it never resolves: the
/// default, which is to end at once, then stays in force.
#[cfg(unix)]
pub fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

/// The same, where Ctrl-C is all there is.
#[cfg(not(unix))]
pub async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Resolves when the process is asked to end by anything but Ctrl-C, which from here on does nothing.
#[cfg(unix)]
pub fn ended() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let ignored = signal(SignalKind::interrupt());
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    );
    async move {
        let _ignored = ignored;
        let (Ok(mut terminate), Ok(mut hangup)) = signals else {
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// The same, where Ctrl-C is all there is.
#[cfg(not(unix))]
pub async fn ended() {
    loop {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
