//! What takes long to judge, judged apart from the threads that serve connections.

use conclave_proto::Refusal;
use tokio::sync::Semaphore;

use crate::error::OpError;
use crate::limits;

/// Where it is judged.
#[derive(Debug)]
pub(crate) struct Apart {
    /// As much at once as leaves the machine to others.
    room: Semaphore,
}

impl Default for Apart {
    fn default() -> Self {
        let room = Semaphore::new(limits::JUDGED_APART);
        Self { room }
    }
}

impl Apart {
    /// Judges it there, in its turn.
    pub(crate) async fn judge<T: Send + 'static>(
        &self,
        judge: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, OpError> {
        let _turn = self.room.acquire().await;
        let judged = tokio::task::spawn_blocking(judge).await;
        // It stopped with the service, or by a fault of its own, which has been told: nothing was taken.
        judged.map_err(|_| Refusal::Storage.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// What is judged waits for what this one thread does meanwhile.
    #[tokio::test]
    async fn who_serves_goes_on_while_something_is_judged() {
        let apart = Apart::default();
        let (serves, served) = channel();
        let judged = apart.judge(move || served.recv());
        let serving = async { serves.send(7) };
        let (judged, sent) = tokio::join!(judged, serving);
        assert_eq!(judged.unwrap(), Ok(7));
        assert_eq!(sent, Ok(()));
    }

    #[tokio::test]
    async fn what_fails_by_its_own_fault_is_not_taken() {
        let apart = Apart::default();
        for _ in 0..=limits::JUDGED_APART {
            let judged: Result<(), OpError> = apart.judge(|| panic!("its own fault")).await;
            assert_eq!(judged.unwrap_err().into_refusal(), Refusal::Storage);
        }
    }
}
