//! Who is connected.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use conclave_order::Asker;
use conclave_proto::{DeviceId, GroupId, Refusal, UserId};
use tokio_util::sync::CancellationToken;

use crate::connection::outbox::Outbox;
use crate::document::channel::Channel;

/// One connection of an authenticated device.
pub(crate) struct Conn {
    /// Number of the connection in this process.
    pub(crate) id: u64,
    /// The device, authenticated.
    pub(crate) device: DeviceId,
    /// Its user.
    pub(crate) user: UserId,
    /// Number of the session that began with its login.
    session: u64,
    /// Frames on their way to it.
    pub(crate) outbox: Outbox,
    /// Set when every Welcome that waited at login was handed over, or could not be.
    pub(crate) welcomed: CancellationToken,
    channels: Mutex<HashMap<u64, Arc<Channel>>>,
    followed: Mutex<HashSet<GroupId>>,
}

impl Conn {
    /// Who asks here.
    pub(crate) fn asker(&self) -> Asker {
        Asker {
            device: self.device,
            user: self.user,
            session: self.session,
        }
    }

    /// The document open as `channel`.
    pub(crate) fn channel(&self, channel: u64) -> Option<Arc<Channel>> {
        lock(&self.channels).get(&channel).cloned()
    }

    /// Opens a channel; gives back the one it replaces.
    pub(crate) fn insert_channel(
        &self,
        channel: Arc<Channel>,
    ) -> Result<Option<Arc<Channel>>, Refusal> {
        let mut channels = lock(&self.channels);
        let number = channel.number();
        let max = conclave_proto::limits::CHANNELS_PER_CONNECTION;
        if channels.len() >= max && !channels.contains_key(&number) {
            return Err(Refusal::TooLarge { max: max as u64 });
        }
        Ok(channels.insert(number, channel))
    }

    /// Closes a channel.
    pub(crate) fn remove_channel(&self, channel: u64) -> Option<Arc<Channel>> {
        lock(&self.channels).remove(&channel)
    }

    /// Closes this very channel, unless another has taken its place.
    pub(crate) fn remove_this(&self, channel: &Arc<Channel>) {
        let mut channels = lock(&self.channels);
        let number = channel.number();
        if channels
            .get(&number)
            .is_some_and(|known| Arc::ptr_eq(known, channel))
        {
            channels.remove(&number);
        }
    }

    /// Closes and gives all channels for which `wanted` holds.
    pub(crate) fn take_channels(&self, wanted: impl Fn(&Channel) -> bool) -> Vec<Arc<Channel>> {
        let mut channels = lock(&self.channels);
        let numbers: Vec<u64> = channels
            .iter()
            .filter(|(_, channel)| wanted(channel))
            .map(|(number, _)| *number)
            .collect();
        numbers
            .iter()
            .filter_map(|number| channels.remove(number))
            .collect()
    }

    /// Notes that a group log is followed here.
    pub(crate) fn follow(&self, group: GroupId) {
        lock(&self.followed).insert(group);
    }

    /// Gives all group logs followed here and forgets them.
    pub(crate) fn take_followed(&self) -> HashSet<GroupId> {
        std::mem::take(&mut *lock(&self.followed))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All connections, by device.
#[derive(Default)]
pub(crate) struct Hub {
    devices: Mutex<HashMap<DeviceId, Vec<Arc<Conn>>>>,
    next: AtomicU64,
}

impl Hub {
    /// Registers a connection.
    pub(crate) fn register(&self, who: Asker, outbox: Outbox) -> Arc<Conn> {
        let conn = Arc::new(Conn {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            device: who.device,
            user: who.user,
            session: who.session,
            outbox,
            welcomed: CancellationToken::new(),
            channels: Mutex::default(),
            followed: Mutex::default(),
        });
        let mut devices = lock(&self.devices);
        devices.entry(who.device).or_default().push(conn.clone());
        conn
    }

    /// Forgets a connection.
    pub(crate) fn remove(&self, conn: &Conn) {
        let mut devices = lock(&self.devices);
        if let Some(of_device) = devices.get_mut(&conn.device) {
            of_device.retain(|other| other.id != conn.id);
            if of_device.is_empty() {
                devices.remove(&conn.device);
            }
        }
    }

    /// The connections of a device.
    pub(crate) fn of_device(&self, device: &DeviceId) -> Vec<Arc<Conn>> {
        lock(&self.devices).get(device).cloned().unwrap_or_default()
    }

    /// Pushes a frame to every connection of these devices.
    pub(crate) fn notify(&self, devices: &BTreeSet<DeviceId>, frame: &Bytes) {
        for device in devices {
            for conn in self.of_device(device) {
                conn.outbox.push(frame.clone());
            }
        }
    }

    /// Closes every connection of a device.
    pub(crate) fn disconnect(&self, device: &DeviceId, why: &Refusal) {
        for conn in self.of_device(device) {
            conn.outbox.close(why.clone(), 0);
        }
    }

    /// Closes every connection.
    pub(crate) fn disconnect_all(&self, why: &Refusal, retry_after_ms: u64) {
        let all: Vec<Arc<Conn>> = lock(&self.devices).values().flatten().cloned().collect();
        for conn in all {
            conn.outbox.close(why.clone(), retry_after_ms);
        }
    }
}
