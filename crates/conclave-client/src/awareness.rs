//! A document's presence as editors of Yjs know it: updates of an awareness, as y-protocols encodes them.
//!
//! An editor draws ids for its states, and whoever hears of them may write under the same ones. So its ids and clocks do not travel: what it shows goes as
//! states by index, and what others show gets ids here that follow from their sessions, under a clock of this bridge.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use conclave_engine::{Present, Showing, ShowingKind};
use conclave_proto::hash::labelled;
use serde::de::IgnoredAny;
use tokio::time::{Instant, MissedTickBehavior};

use crate::error::Error;
use crate::presence::{Attendance, Attending, Key, Presence, PresenceChange, key};

/// An editor forgets what it has not heard of for thirty seconds: everything is told again after so long.
const REFRESH: Duration = Duration::from_secs(10);
/// Largest update that is read, in bytes. An editor's holds what it heard of others too.
const UPDATE_BYTES: usize = 8 * 1024 * 1024;
/// What an awareness has in place of a state that is gone.
const GONE: &str = "null";
/// What ids are derived under.
const ID_LABEL: &str = "conclave 1.0 awareness id";

/// One state of an awareness.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: u64,
    clock: u64,
    json: String,
}

/// Bytes that are no update of an awareness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NoAwareness;

impl From<NoAwareness> for Error {
    fn from(_: NoAwareness) -> Self {
        Self::Argument {
            what: "update: these bytes are no update of an awareness",
        }
    }
}

/// Reads an update: a number of entries, each an id, a clock and a state as JSON.
fn decode(update: &[u8]) -> Result<Vec<Entry>, NoAwareness> {
    if update.len() > UPDATE_BYTES {
        return Err(NoAwareness);
    }
    let mut rest = update;
    let count = number(&mut rest)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let (id, clock) = (number(&mut rest)?, number(&mut rest)?);
        let len = usize::try_from(number(&mut rest)?).map_err(|_| NoAwareness)?;
        let (json, behind) = rest.split_at_checked(len).ok_or(NoAwareness)?;
        rest = behind;
        let json = std::str::from_utf8(json).map_err(|_| NoAwareness)?;
        serde_json::from_str::<IgnoredAny>(json).map_err(|_| NoAwareness)?;
        let json = json.to_owned();
        entries.push(Entry { id, clock, json });
    }
    match rest.is_empty() {
        true => Ok(entries),
        false => Err(NoAwareness),
    }
}

/// A number as lib0 writes it: seven bits in a byte, the lowest first.
fn number(rest: &mut &[u8]) -> Result<u64, NoAwareness> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().ok_or(NoAwareness)?;
        *rest = behind;
        let bits = u64::from(byte & 0x7f);
        if bits.leading_zeros() < shift {
            return Err(NoAwareness);
        }
        number |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NoAwareness)
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut update = Vec::new();
    put(&mut update, entries.len() as u64);
    for Entry { id, clock, json } in entries {
        put(&mut update, *id);
        put(&mut update, *clock);
        put(&mut update, json.len() as u64);
        update.extend_from_slice(json.as_bytes());
    }
    update
}

fn put(update: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        update.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    update.push(number.to_le_bytes()[0]);
}

/// The id under which a state of somebody else is shown to an editor: 53 bits, which is what its numbers hold.
fn id_of(who: &Present) -> u64 {
    let hash = labelled(ID_LABEL, &[who.session.as_bytes(), &[who.index]]);
    let first = hash.0.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first) >> 11
}

/// What others show, as it was told to an editor.
#[derive(Debug, Default)]
struct Others {
    shown: BTreeMap<Key, (u64, String)>,
    /// Rises with every update, so that each is newer than whatever was told under its ids before.
    clock: u64,
}

impl Others {
    /// What somebody shows, or does not show any more. Empty: nothing that an editor knows has changed.
    fn changed(&mut self, who: &Present, showing: Option<&Showing>) -> Vec<(u64, String)> {
        let is_awareness = |it: &&Showing| it.kind == ShowingKind::Awareness;
        let showing = showing.filter(is_awareness).filter(|showing| {
            let read = serde_json::from_str::<IgnoredAny>(&showing.value);
            read.is_ok() && showing.value.trim() != GONE
        });
        let now = showing.map(|showing| (id_of(who), showing.value.clone()));
        let before = match now.clone() {
            Some(now) => self.shown.insert(key(who), now),
            None => self.shown.remove(&key(who)),
        };
        if before == now {
            return Vec::new();
        }
        let gone = before.filter(|(id, _)| now.as_ref().is_none_or(|(other, _)| id != other));
        let gone = gone.map(|(id, _)| (id, GONE.to_owned()));
        gone.into_iter().chain(now).collect()
    }

    /// What is shown now is this, and nothing else.
    fn are<'a>(
        &mut self,
        there: impl Iterator<Item = &'a (Present, Showing)>,
    ) -> Vec<(u64, String)> {
        let before = std::mem::take(&mut self.shown);
        for (who, showing) in there {
            self.changed(who, Some(showing));
        }
        let stays: BTreeSet<u64> = self.shown.values().map(|(id, _)| *id).collect();
        let gone = before.into_values().filter(|(id, _)| !stays.contains(id));
        let gone = gone.map(|(id, _)| (id, GONE.to_owned()));
        gone.chain(self.shown.values().cloned()).collect()
    }

    fn all(&self) -> Vec<(u64, String)> {
        self.shown.values().cloned().collect()
    }

    /// An update of this, if it is anything.
    fn update(&mut self, states: Vec<(u64, String)>) -> Option<Vec<u8>> {
        if states.is_empty() {
            return None;
        }
        self.clock = self.clock.saturating_add(1);
        let clock = self.clock;
        let entries = states.into_iter();
        let entries = entries.map(|(id, json)| Entry { id, clock, json });
        Some(encode(&entries.collect::<Vec<_>>()))
    }
}

/// A state of the editor, and what shows it.
#[derive(Debug)]
struct Own {
    clock: u64,
    json: String,
    attending: Attending,
}

/// Joins a document's [`Presence`] to an editor's awareness ([`Presence::awareness`]): updates of y-protocols go in and come out.
///
/// Ids and clocks do not travel. What the editor shows goes to the others as states by index, up to eight of them in all windows of this device; what others
/// show comes under ids that this bridge makes from their sessions. A cursor that names what is not in the log yet is left out until it is, so that nobody
/// learns a replica id before it belongs to somebody.
///
/// ```no_run
/// # use conclave_client::{Document, Error, Yrs};
/// # async fn example(notes: Document<Yrs>, mut from_editor: tokio::sync::mpsc::Receiver<Vec<u8>>) -> Result<(), Error> {
/// let mut awareness = notes.presence().await?.awareness();
/// loop {
///     tokio::select! {
///         Some(update) = from_editor.recv() => awareness.apply(&update).await?,
///         Some(update) = awareness.next() => println!("{} bytes for the editor", update.len()),
///         else => return Ok(()),
///     }
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Awareness {
    presence: Presence,
    others: Others,
    own: BTreeMap<u64, Own>,
    refresh: tokio::time::Interval,
    /// Whether what was there at the beginning was told.
    begun: bool,
}

impl Awareness {
    pub(crate) fn new(presence: Presence) -> Self {
        let mut refresh = tokio::time::interval_at(Instant::now() + REFRESH, REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            presence,
            others: Others::default(),
            own: BTreeMap::new(),
            refresh,
            begun: false,
        }
    }

    /// The editor's awareness has changed: its update. What it says of others, and what is older than what it said before, is passed over.
    ///
    /// # Errors
    /// [`Error::Argument`] for other bytes; those of [`Presence::show`].
    pub async fn apply(&mut self, update: &[u8]) -> Result<(), Error> {
        let others: BTreeSet<u64> = self.others.shown.values().map(|(id, _)| *id).collect();
        for Entry { id, clock, json } in decode(update)? {
            let before = self.own.get(&id);
            let is_old =
                before.is_some_and(|own| clock < own.clock || (clock == own.clock && json != GONE));
            if others.contains(&id) || is_old {
                continue;
            }
            if json == GONE {
                // With whoever shows it the state goes.
                self.own.remove(&id);
                continue;
            }
            self.show(id, clock, json).await?;
        }
        Ok(())
    }

    async fn show(&mut self, id: u64, clock: u64, json: String) -> Result<(), Error> {
        let showing = Showing {
            kind: ShowingKind::Awareness,
            value: json.clone(),
        };
        if let Some(own) = self.own.get_mut(&id) {
            own.clock = clock;
            if own.json != json {
                own.json = json;
                own.attending.show(Some(showing)).await?;
            }
            return Ok(());
        }
        let (client, place) = self.presence.place();
        let attendance = Attendance {
            showing: Some(showing),
            ..place
        };
        let (attending, _) = Attending::begin(&client, &attendance).await?;
        let own = Own {
            clock,
            json,
            attending,
        };
        self.own.insert(id, own);
        Ok(())
    }

    /// The next update for the editor's awareness; none when the client stopped. What is there at first comes first. What has not changed comes again every ten
    /// seconds, since an editor forgets what it does not hear of. May be dropped while waiting without losing anything.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            let states = match std::mem::replace(&mut self.begun, true) {
                false => self.others.are(self.presence.others()),
                true => tokio::select! {
                    change = self.presence.next() => match change? {
                        PresenceChange::Shows(who, showing) => {
                            self.others.changed(&who, Some(&showing))
                        }
                        PresenceChange::Gone(who) => self.others.changed(&who, None),
                        PresenceChange::Missed | PresenceChange::Lost => {
                            self.others.are(self.presence.others())
                        }
                    },
                    _ = self.refresh.tick() => self.others.all(),
                },
            };
            if let Some(update) = self.others.update(states) {
                return Some(update);
            }
        }
    }

    /// The presence itself.
    #[must_use]
    pub fn presence(&self) -> &Presence {
        &self.presence
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use conclave_proto::{DeviceId, InstanceId, SessionId, UserId};
    use yrs::Doc;
    use yrs::sync::{Awareness as Yawareness, AwarenessUpdate};
    use yrs::updates::decoder::Decode;
    use yrs::updates::encoder::Encode;

    use super::*;

    fn who(session: u8, index: u8) -> Present {
        Present {
            user: UserId([1; 32]),
            device: DeviceId([1; 16]),
            instance: InstanceId([1; 8]),
            session: SessionId([session; 16]),
            index,
            name: None,
            is_own: false,
        }
    }

    fn shows(value: &str) -> Showing {
        Showing {
            kind: ShowingKind::Awareness,
            value: value.to_owned(),
        }
    }

    /// What an awareness of the engine has of others.
    fn states(of: &Yawareness) -> Vec<String> {
        let own = of.client_id();
        let mut states: Vec<String> = of
            .iter()
            .filter(|(id, _)| *id != own)
            .filter_map(|(_, state)| Some(state.data?.to_string()))
            .collect();
        states.sort();
        states
    }

    fn tell(others: &mut Others, to: &mut Yawareness, changes: Vec<(u64, String)>) {
        let update = others.update(changes).unwrap();
        to.apply_update(AwarenessUpdate::decode_v1(&update).unwrap())
            .unwrap();
    }

    #[test]
    fn what_others_show_comes_goes_and_comes_back_in_the_engines_awareness() {
        let (mut others, mut editor) = (Others::default(), Yawareness::new(Doc::new()));
        let states_are = |editor: &Yawareness, all: &[&str]| assert_eq!(states(editor), all);
        let changes = others.changed(&who(1, 0), Some(&shows(r#"{"a":1}"#)));
        tell(&mut others, &mut editor, changes);
        let changes = others.changed(&who(1, 1), Some(&shows(r#"{"b":1}"#)));
        tell(&mut others, &mut editor, changes);
        states_are(&editor, &[r#"{"a":1}"#, r#"{"b":1}"#]);
        let changes = others.changed(&who(1, 0), None);
        tell(&mut others, &mut editor, changes);
        states_are(&editor, &[r#"{"b":1}"#]);
        // The same session again: its clock has gone on.
        let changes = others.changed(&who(1, 0), Some(&shows(r#"{"a":2}"#)));
        tell(&mut others, &mut editor, changes);
        states_are(&editor, &[r#"{"a":2}"#, r#"{"b":1}"#]);
        // Another session in its place.
        let changes = others.changed(&who(2, 0), Some(&shows(r#"{"a":2}"#)));
        assert_eq!(changes.len(), 2);
        tell(&mut others, &mut editor, changes);
        states_are(&editor, &[r#"{"a":2}"#, r#"{"b":1}"#]);
        assert!(
            others
                .changed(&who(2, 0), Some(&shows(r#"{"a":2}"#)))
                .is_empty()
        );
        let all = others.all();
        tell(&mut others, &mut editor, all);
        states_are(&editor, &[r#"{"a":2}"#, r#"{"b":1}"#]);
        let gone = others.are([].iter());
        tell(&mut others, &mut editor, gone);
        states_are(&editor, &[]);
    }

    #[test]
    fn what_is_no_awareness_state_is_not_told_to_an_editor() {
        let mut others = Others::default();
        for bad in [
            shows("null"),
            shows("{"),
            Showing {
                kind: ShowingKind::Application,
                value: "{}".to_owned(),
            },
        ] {
            assert!(others.changed(&who(1, 0), Some(&bad)).is_empty());
        }
        others.changed(&who(1, 0), Some(&shows("{}")));
        let gone = others.changed(&who(1, 0), Some(&shows("{")));
        assert_eq!(gone, [(id_of(&who(1, 0)), GONE.to_owned())]);
    }

    #[test]
    fn ids_are_numbers_of_an_editor_and_follow_from_session_and_index() {
        let ids: BTreeSet<u64> = (0..100)
            .flat_map(|session| (0..8).map(move |index| id_of(&who(session, index))))
            .collect();
        assert_eq!(ids.len(), 800);
        assert!(ids.iter().all(|id| *id < 1 << 53));
        assert_eq!(id_of(&who(3, 2)), id_of(&who(3, 2)));
    }

    #[test]
    fn the_engines_updates_are_read_and_its_own_reading_is_the_same() {
        let mut editor = Yawareness::new(Doc::new());
        editor.set_local_state_raw(r#"{"user":{"name":"Änne"},"cursor":null}"#);
        let update = editor.update().unwrap().encode_v1();
        let entries = decode(&update).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].json, r#"{"user":{"name":"Änne"},"cursor":null}"#);
        assert_eq!(encode(&entries), update);
        editor.clean_local_state();
        let id = editor.client_id();
        let gone = editor.update_with_clients([id]).unwrap().encode_v1();
        assert_eq!(decode(&gone).unwrap()[0].json, GONE);
        let entry = |json: &str| Entry {
            id: (1 << 53) - 1,
            clock: 300,
            json: json.to_owned(),
        };
        let ours = AwarenessUpdate::decode_v1(&encode(&[entry("{}")])).unwrap();
        let (_, read) = ours.clients.iter().next().unwrap();
        assert_eq!((read.clock, &read.json), (300, &Arc::from("{}")));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = encode(&[Entry {
            id: 9,
            clock: 1,
            json: "{}".to_owned(),
        }]);
        assert!(decode(&good).is_ok());
        for len in 0..good.len() {
            assert!(decode(&good[..len]).is_err());
        }
        let longer = [good.as_slice(), &[0]].concat();
        // No number of 64 bits; far more entries, or bytes, than there are; no JSON; no text.
        for bad in [
            &longer[..],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1],
            &[1, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f],
            &[1, 1, 1, 1, b'{'],
            &[1, 1, 1, 1, 0xff],
        ] {
            assert_eq!(decode(bad), Err(NoAwareness));
        }
    }
}
