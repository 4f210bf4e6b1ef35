//! What takes long to judge, judged apart from the threads that serve connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use conclave_proto::{Refusal, UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::OpError;
use crate::limits;

type Users = Arc<Mutex<HashMap<UserId, Arc<Semaphore>>>>;

/// Where it is judged.
#[derive(Debug)]
pub(crate) struct Apart {
    /// As much at once as leaves the machine to others.
    room: Arc<Semaphore>,
    /// Of each user one waits for a place there or has it: however many one brings, others come between.
    users: Users,
}

impl Default for Apart {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(limits::JUDGED_APART));
        let users = Users::default();
        Self { room, users }
    }
}

/// Somebody's entry among the users, which is gone when nobody has it or waits for it.
#[derive(Debug)]
struct Place {
    users: Users,
    user: UserId,
    own: Arc<Semaphore>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // This one and the one in the table.
        if Arc::strong_count(&self.own) <= 2 {
            users.remove(&self.user);
        }
    }
}

/// A turn. It is over when what is judged in it is, though nobody waits for that any more.
#[derive(Debug)]
pub(crate) struct Turn {
    _room: Option<OwnedSemaphorePermit>,
    _own: Option<OwnedSemaphorePermit>,
    /// Goes after both.
    _place: Place,
}

impl Apart {
    /// Waits for a user's turn.
    pub(crate) async fn turn(&self, user: UserId) -> Turn {
        let place = self.place(user);
        // Neither is ever closed.
        let own = place.own.clone().acquire_owned().await.ok();
        let room = self.room.clone().acquire_owned().await.ok();
        Turn {
            _room: room,
            _own: own,
            _place: place,
        }
    }

    fn place(&self, user: UserId) -> Place {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let own = users
            .entry(user)
            .or_insert_with(|| Arc::new(Semaphore::new(1)));
        Place {
            users: self.users.clone(),
            user,
            own: own.clone(),
        }
    }
}

impl Turn {
    /// Judges it there.
    pub(crate) async fn judge<T: Send + 'static>(
        self,
        judge: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, OpError> {
        let judge = move || {
            let _turn = self;
            judge()
        };
        let judged = tokio::task::spawn_blocking(judge).await;
        // It stopped with the service, or by a fault of its own, which has been told: nothing was taken.
        judged.map_err(|_| Refusal::Storage.into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use futures_util::FutureExt as _;

    use super::*;

    const ANA: UserId = UserId([1; 32]);
    const BEN: UserId = UserId([2; 32]);
    const CAROL: UserId = UserId([3; 32]);

    /// What is judged waits for what this one thread does meanwhile.
    #[tokio::test]
    async fn who_serves_goes_on_while_something_is_judged() {
        let apart = Apart::default();
        let (serves, served) = channel();
        let judged = apart.turn(ANA).await.judge(move || served.recv());
        let serving = async { serves.send(7) };
        let (judged, sent) = tokio::join!(judged, serving);
        assert_eq!(judged.unwrap(), Ok(7));
        assert_eq!(sent, Ok(()));
    }

    #[tokio::test]
    async fn what_fails_by_its_own_fault_is_not_taken() {
        let apart = Apart::default();
        for _ in 0..=limits::JUDGED_APART {
            let turn = apart.turn(ANA).await;
            let judged: Result<(), OpError> = turn.judge(|| panic!("its own fault")).await;
            assert_eq!(judged.unwrap_err().into_refusal(), Refusal::Storage);
        }
    }

    /// Who brings many has one place, also in the queue, and keeps nobody else from theirs.
    #[tokio::test]
    async fn others_come_between_what_one_user_brings() {
        let apart = Apart::default();
        let of_ana = apart.turn(ANA).await;
        let mut next_of_ana = Box::pin(apart.turn(ANA));
        assert!(next_of_ana.as_mut().now_or_never().is_none());
        let of_ben = apart.turn(BEN).now_or_never().unwrap();
        // All places are taken now, and Carol is the next.
        let mut of_carol = Box::pin(apart.turn(CAROL));
        assert!(of_carol.as_mut().now_or_never().is_none());
        drop(of_ana);
        assert!(next_of_ana.as_mut().now_or_never().is_none());
        let of_carol = of_carol.as_mut().now_or_never().unwrap();
        drop(of_ben);
        drop(next_of_ana.as_mut().now_or_never().unwrap());
        drop(of_carol);
        drop(next_of_ana);
        assert!(apart.users.lock().unwrap().is_empty());
        // Who goes away while waiting is forgotten too.
        let turns = [apart.turn(BEN).await, apart.turn(CAROL).await];
        assert!(apart.turn(ANA).now_or_never().is_none());
        assert_eq!(apart.users.lock().unwrap().len(), 2);
        drop(turns);
        assert!(apart.users.lock().unwrap().is_empty());
    }
}
