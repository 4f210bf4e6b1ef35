//! A recorded session played: every frame is decoded by the program and by the page, the group's log is followed by its public state, the
//! documents' logs are put together from what was sent and compared with what was delivered, and everything in them is opened.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use conclave_identity::{
    DeviceCredential, DeviceKey, SignedDeviceList, UserKey, verify, verify_generation, verify_head,
};
use conclave_mls::{EpochRoot, EpochSecrets, PublicGroupState, Secret32, check_founded, open_wrap};
use conclave_proto::codec::encode;
use conclave_proto::frame::{
    Answer, ClientFrame, DeliveredRecord, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
    WelcomeDelivery,
};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::service::{Generation, LogName, SignedHead};
use conclave_proto::{DeviceId, DocumentId, GroupId, Head, UnixMs};

use super::super::LIMIT_BYTES;
use super::super::page::Page;
use super::super::value::{Decoder, encode as encode_by_page};
use super::documents::{Roots, content, kind_of};
use super::logs::{Log, Sent, Sink};
use super::{Epoch, Event, Frame, Person, Session, Way};

/// What was seen while playing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Played {
    /// Frames.
    pub frames: usize,
    /// Commits that the public state took.
    pub commits: usize,
    /// Wraps that opened and held the roots that are stated.
    pub wraps: usize,
    /// Signed heads that verified.
    pub heads: usize,
    /// Records that opened.
    pub records: usize,
    /// Records that came without what their reader knows, and were filled in.
    pub elided: usize,
    /// Welcomes.
    pub welcomes: usize,
    /// Requests and appends that were refused.
    pub refused: usize,
}

/// Plays a session.
///
/// # Errors
/// Where anything in it is not as the page and the program have it.
pub fn play(page: &Page, session: &Session) -> Result<Played> {
    let mut player = Player {
        page,
        session,
        generation: None,
        nonces: BTreeMap::new(),
        asked: BTreeMap::new(),
        group: None,
        entries: Vec::new(),
        heads: Vec::new(),
        states: BTreeMap::new(),
        told: Vec::new(),
        logs: BTreeMap::new(),
        channels: BTreeMap::new(),
        sent: BTreeMap::new(),
        played: Played::default(),
    };
    let mut at = 0;
    let mut step = "";
    for event in &session.frames {
        match event {
            Event::Step { step: next } => step = next,
            Event::Frame(frame) => {
                let place = || format!("frame {at} ({}), after: {step}", frame.what);
                player.frame(frame).with_context(place)?;
                at += 1;
            }
        }
    }
    player.finish()
}

/// Wherever a frame was sent or taken.
type Whose = String;

/// What was told of a log, to be compared with it in the end.
enum Told {
    Entries(u64, Vec<GroupEntry>),
    Records(Sink, u64, Vec<DeliveredRecord>),
    Head(LogName, Head),
    Welcome(Box<WelcomeDelivery>),
}

struct Player<'s> {
    page: &'s Page,
    session: &'s Session,
    generation: Option<Generation>,
    nonces: BTreeMap<Whose, ([u8; 32], [u8; 32])>,
    asked: BTreeMap<(Whose, u64), Request>,
    group: Option<PublicGroupState>,
    entries: Vec<GroupEntry>,
    /// Of the group's log, of all sizes but 0.
    heads: Vec<Head>,
    /// Public states right after the commits that began the epochs, encoded.
    states: BTreeMap<u64, Vec<u8>>,
    /// What the service told of logs. It may tell of something before it answers who sent it.
    told: Vec<Told>,
    logs: BTreeMap<DocumentId, Log>,
    channels: BTreeMap<(Whose, u64), Sink>,
    /// Frames that wait for their answer, by channel.
    sent: BTreeMap<(Whose, u64), Vec<Sent>>,
    played: Played,
}

impl Player<'_> {
    fn frame(&mut self, frame: &Frame) -> Result<()> {
        self.played.frames += 1;
        let (of, bytes) = match frame.way {
            Way::Up => ("ClientFrame", &frame.frame.0),
            Way::Down => ("ServiceFrame", &frame.frame.0),
        };
        let shown = Decoder::new(self.page).decode(of, bytes)?;
        let again = encode_by_page(self.page, of, &serde_json::to_value(&shown)?)?;
        ensure!(again == *bytes, "the page has another encoding");
        let at = UnixMs(frame.at);
        let who = frame.who.clone();
        match frame.way {
            Way::Up => {
                let read: ClientFrame = decode(bytes)?;
                ensure!(encode(&read) == *bytes, "the program has another encoding");
                self.up(who, read)
            }
            Way::Down => {
                let read: ServiceFrame = decode(bytes)?;
                ensure!(encode(&read) == *bytes, "the program has another encoding");
                self.down(who, read, at)
            }
        }
    }

    fn person(&self, who: &str) -> Result<&Person> {
        let mut people = self.session.people.iter();
        let found = people.find(|it| it.name == who);
        found.with_context(|| format!("nobody is {who}"))
    }

    fn device(&self, who: &str) -> Result<DeviceId> {
        DeviceId::from_slice(&self.person(who)?.device.0).context("no device")
    }

    fn group_id(&self) -> Result<GroupId> {
        GroupId::from_slice(&self.session.group.0).context("no group")
    }

    fn up(&mut self, who: Whose, frame: ClientFrame) -> Result<()> {
        match frame {
            ClientFrame::Hello { credential, .. } => {
                let credential = DeviceCredential::from_bytes(credential.as_slice())?;
                credential.verify()?;
                let person = self.person(&who)?;
                let user = credential.genesis.user_id();
                ensure!(person.user.0 == user.as_bytes(), "another user");
                let seeds = (person.user_seed.exactly()?, person.device_seed.exactly()?);
                let user = UserKey::from_bytes(&seeds.0).public();
                ensure!(credential.genesis.key == user, "another user key");
                let device = DeviceKey::from_bytes(&seeds.1).public();
                let certified = credential.certificate.device_key.as_slice();
                ensure!(certified == device, "another device key");
            }
            login @ ClientFrame::Login { .. } => self.login(&who, login)?,
            ClientFrame::Request { id, body } => {
                if let Request::PutDeviceList { list } = &body {
                    SignedDeviceList::from_bytes(list.as_slice())?.verify()?;
                }
                let before = self.asked.insert((who, id.0), body);
                ensure!(before.is_none(), "two requests of one number");
            }
            ClientFrame::Append {
                channel,
                epoch,
                first_clock,
                records,
            } => {
                let waits = self.sent.entry((who, channel.0)).or_default();
                waits.push(Sent {
                    epoch: epoch.0,
                    first_clock: first_clock.0,
                    records: records.0,
                });
            }
            // Nobody shows anything in the recorded session.
            ClientFrame::Ping | ClientFrame::Show { .. } => {}
        }
        Ok(())
    }

    fn login(&self, who: &str, login: ClientFrame) -> Result<()> {
        let ClientFrame::Login {
            origin,
            signature,
            life,
            life_token,
            take_over,
            ..
        } = login
        else {
            bail!("no login");
        };
        ensure!(origin.as_slice() == self.session.service.origin.as_bytes());
        let (nonce, service_key) = *self.nonces.get(who).context("no challenge")?;
        let statement = LoginStatement {
            nonce,
            origin,
            service_key,
            device: self.device(who)?,
            life,
            life_token,
            take_over,
        };
        let key = DeviceKey::from_bytes(&self.person(who)?.device_seed.exactly()?);
        verify(&key.public(), LOGIN_LABEL, &encode(&statement), &signature)?;
        Ok(())
    }

    fn down(&mut self, who: Whose, frame: ServiceFrame, at: UnixMs) -> Result<()> {
        match frame {
            ServiceFrame::Challenge {
                nonce,
                service_key,
                generation,
                ..
            } => {
                ensure!(self.session.service.key.0 == service_key, "another service");
                verify_generation(&service_key, &generation)?;
                self.generation = Some(generation);
                self.nonces.insert(who, (nonce, service_key));
            }
            ServiceFrame::Response { id, answer } => {
                let asked = self.asked.remove(&(who.clone(), id.0));
                self.answer(who, asked.context("nobody asked")?, answer, at)?;
            }
            ServiceFrame::GroupEntries {
                first_seq, entries, ..
            } => self.told.push(Told::Entries(first_seq, entries)),
            ServiceFrame::NewAuthor { channel, author } => {
                let sink = self.channels.get_mut(&(who, channel.0));
                sink.context("no channel")?.authors.push(author);
            }
            ServiceFrame::Deliver {
                channel,
                first_seq,
                records,
            } => {
                let sink = self.channels.get(&(who, channel.0));
                let sink = sink.context("no channel")?.clone();
                self.told.push(Told::Records(sink, first_seq.0, records.0));
            }
            ServiceFrame::Ack {
                channel,
                next_clock,
                first_seq,
                count,
            } => {
                let sink = self.channels.get(&(who.clone(), channel.0));
                let sink = sink.context("no channel")?;
                let waits = self
                    .sent
                    .get_mut(&(who, channel.0))
                    .context("nothing was sent")?;
                ensure!(!waits.is_empty(), "nothing was sent");
                let sent = waits.remove(0);
                ensure!(sent.records.len() as u64 == count.0, "another frame");
                let group = GroupId::from_slice(&self.session.group.0).context("no group")?;
                let log = self.logs.get_mut(&sink.document).context("no log")?;
                ensure!(log.size() == first_seq.0, "another position");
                let next = log.append(group, sink, sent)?;
                ensure!(next == next_clock.0, "another clock");
            }
            ServiceFrame::Welcome(delivery) => self.told.push(Told::Welcome(Box::new(delivery))),
            ServiceFrame::Head { log, signed } => self.head(&log, &signed)?,
            ServiceFrame::AppendRefused { channel, .. } => {
                let waits = self.sent.get_mut(&(who, channel.0));
                let waits = waits.filter(|waits| !waits.is_empty());
                waits.context("nothing was sent")?.remove(0);
                self.played.refused += 1;
            }
            ServiceFrame::Goodbye { why, .. } => bail!("goodbye: {why}"),
            _ => {}
        }
        Ok(())
    }

    fn state(&self) -> Result<&PublicGroupState> {
        self.group.as_ref().context("no group yet")
    }

    fn head(&mut self, log: &LogName, signed: &SignedHead) -> Result<()> {
        let generation = self.generation.as_ref().context("no generation")?;
        verify_head(
            &self.session.service.key.exactly()?,
            generation,
            log,
            signed,
        )?;
        self.played.heads += 1;
        self.told.push(Told::Head(*log, signed.head));
        Ok(())
    }

    fn answer(&mut self, who: Whose, asked: Request, answer: Answer, at: UnixMs) -> Result<()> {
        match (asked, answer) {
            // As when somebody closes what a removal has closed already.
            (_, Answer::Refused(_)) => self.played.refused += 1,
            (
                Request::CreateGroup {
                    group_info,
                    tree,
                    founded,
                },
                Answer::Accepted { .. },
            ) => {
                check_founded(founded, at)?;
                let device = self.device(&who)?;
                let made = PublicGroupState::create(
                    group_info.as_slice(),
                    tree.as_slice(),
                    device,
                    founded,
                )?;
                self.group = Some(made.0);
            }
            (Request::Commit(bundle), Answer::Accepted { seq, head }) => {
                self.commit(&who, &bundle, at)?;
                self.entered(GroupEntry::Commit(bundle.commit), seq, head)?;
            }
            (Request::PutEntry { entry }, Answer::Accepted { seq, head }) => {
                self.entry(&who, &GroupEntry::Signed(entry), seq, head)?;
            }
            (Request::CreateDocument { entry, snapshot }, Answer::Accepted { seq, head }) => {
                self.entry(&who, &GroupEntry::Signed(entry), seq, head)?;
                let document = snapshot.header.document;
                let log = self.logs.entry(document).or_default();
                ensure!(log.size() == 0, "a document that is there");
                log.push(snapshot)?;
            }
            (Request::PutSnapshot { record }, Answer::Accepted { seq, head }) => {
                let log = self
                    .logs
                    .get_mut(&record.header.document)
                    .context("no log")?;
                ensure!(log.size() == seq, "another position");
                log.push(record)?;
                ensure!(log.head() == head, "another head");
            }
            (
                Request::OpenDocument {
                    document, instance, ..
                },
                Answer::Opened(opened),
            ) => {
                let log = self.logs.get(&document).context("no log")?;
                ensure!(log.head() == opened.signed.head, "another head");
                if let Some(base) = &opened.base {
                    ensure!(log.at(base.seq)? == &base.record, "another base");
                }
                let device = self.device(&who)?;
                let author = conclave_proto::Author { device, instance };
                let sink = Sink {
                    document,
                    author,
                    authors: opened.authors,
                };
                self.channels.insert((who, opened.channel.0), sink);
                let group = self.group_id()?;
                let document = Some(document);
                self.head(&LogName { group, document }, &opened.signed)?;
            }
            (
                Request::SubscribeGroup { group, .. },
                Answer::Subscribed {
                    head,
                    signed: Some(signed),
                    ..
                },
            ) => {
                ensure!(signed.head == head, "another head");
                let document = None;
                self.head(&LogName { group, document }, &signed)?;
            }
            (Request::GetWraps { epoch, .. }, Answer::Wraps { wraps }) => {
                for wrap in &wraps {
                    ensure!(wrap.statement.epoch == epoch, "a wrap of another epoch");
                    self.wrap(wrap)?;
                }
            }
            (Request::GetRecords { document, .. }, Answer::Records { first_seq, records }) => {
                let sink = Sink::of(document);
                self.told.push(Told::Records(sink, first_seq, records));
            }
            _ => {}
        }
        Ok(())
    }

    fn commit(&mut self, who: &str, bundle: &CommitBundle, at: UnixMs) -> Result<()> {
        let device = self.device(who)?;
        let group = self.group.as_mut().context("no group yet")?;
        let judged = group.judge_bundle(bundle, device, at)?;
        group.apply(judged)?;
        let state = group.state();
        self.states.insert(state.epoch, state.to_bytes());
        state
            .judge_wrap(&bundle.wrap)
            .map_err(|fault| anyhow::anyhow!("{fault:?}"))?;
        self.played.commits += 1;
        self.wrap(&bundle.wrap)
    }

    /// An entry is where the service says that it is.
    fn entered(&mut self, entry: GroupEntry, seq: u64, head: Head) -> Result<()> {
        ensure!(self.entries.len() as u64 == seq, "another position");
        self.entries.push(entry);
        self.heads.push(head);
        ensure!(self.state()?.state().head() == head, "another head");
        Ok(())
    }

    fn entry(&mut self, who: &str, entry: &GroupEntry, seq: u64, head: Head) -> Result<()> {
        let GroupEntry::Signed(record) = entry else {
            bail!("no signed entry");
        };
        let device = self.device(who)?;
        let group = self.group.as_mut().context("no group yet")?;
        let effect = group.judge_entry(record, device)?;
        group.apply_entry(&effect);
        self.entered(entry.clone(), seq, head)
    }

    /// A wrap opens with the key that is stated, and holds roots that are stated.
    fn wrap(&mut self, wrap: &RootWrap) -> Result<()> {
        let mut epochs = self.session.epochs.iter();
        let epoch = epochs.find(|it| it.epoch == wrap.statement.epoch);
        let secrets = secrets(epoch.context("a wrap of no epoch")?)?;
        let stated = Roots::of(&self.session.epochs)?;
        for (epoch, root) in open_wrap(&secrets, wrap)? {
            ensure!(*stated.get(epoch)? == root, "another root of epoch {epoch}");
        }
        self.played.wraps += 1;
        Ok(())
    }

    /// A joiner gets the public state that the judged log led to.
    fn welcome(&mut self, delivery: &WelcomeDelivery) -> Result<()> {
        let state = self.states.get(&delivery.epoch).context("no such epoch")?;
        ensure!(
            delivery.state.group_state.as_slice() == state,
            "another state"
        );
        self.wrap(&delivery.state.wrap)?;
        self.played.welcomes += 1;
        super::welcome::check(self.session, delivery)
    }

    /// What was told of a log is what is in it.
    fn compare(&mut self, told: &Told) -> Result<()> {
        match told {
            Told::Entries(first, entries) => {
                let from = usize::try_from(*first)?;
                let known = self.entries.get(from..from + entries.len());
                ensure!(
                    known == Some(entries.as_slice()),
                    "other entries at {first}"
                );
            }
            Told::Records(sink, first, records) => {
                let log = self.logs.get(&sink.document).context("no log")?;
                self.played.elided += log.check(sink, *first, records)?;
            }
            Told::Head(log, head) => {
                let known = match (log.document, head.size.checked_sub(1)) {
                    (Some(document), _) => {
                        let log = self.logs.get(&document).context("no log")?;
                        log.head_at(head.size)?
                    }
                    (None, None) => Head::EMPTY,
                    (None, Some(at)) => {
                        let known = self.heads.get(usize::try_from(at)?);
                        *known.context("no such size")?
                    }
                };
                ensure!(known == *head, "another head of size {}", head.size);
            }
            Told::Welcome(delivery) => self.welcome(delivery)?,
        }
        Ok(())
    }

    /// What the logs say is what the file says.
    fn finish(mut self) -> Result<Played> {
        ensure!(self.asked.is_empty(), "unanswered: {:?}", self.asked.keys());
        for told in std::mem::take(&mut self.told) {
            self.compare(&told)?;
        }
        let roots = Roots::of(&self.session.epochs)?;
        ensure!(
            self.logs.len() == self.session.documents.len(),
            "other documents"
        );
        for stated in &self.session.documents {
            let document = DocumentId::from_slice(&stated.document.0).context("no document")?;
            let log = self.logs.get(&document).context("no log")?;
            let kind = kind_of(stated.crdt)?;
            let people = &self.session.people;
            let found = content(&stated.what, document, kind, log.records(), people, &roots)?;
            self.played.records += found.records.len();
            ensure!(found.root == stated.root, "another log of {}", stated.what);
            ensure!(
                found.records == stated.records,
                "other records of {}",
                stated.what
            );
            ensure!(found.keys == stated.keys, "other keys of {}", stated.what);
            let said = (&found.text, &found.json);
            ensure!(
                said == (&stated.text, &stated.json),
                "another content of {}",
                stated.what
            );
        }
        Ok(self.played)
    }
}

fn decode<T: tls_codec::DeserializeBytes>(bytes: &[u8]) -> Result<T> {
    Ok(conclave_proto::codec::decode("frame", bytes, LIMIT_BYTES)?)
}

fn secrets(epoch: &Epoch) -> Result<EpochSecrets> {
    Ok(EpochSecrets {
        epoch: epoch.epoch,
        root: EpochRoot::new(epoch.epoch_root.exactly()?),
        wrap_key: Secret32::new(epoch.wrap_key.exactly()?),
        presence_root: Secret32::new(epoch.presence_root.exactly()?),
    })
}
