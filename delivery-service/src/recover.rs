//! What an operator does before and after a loss: copy, put back, declare, give up. But for putting back, beside a running service or without
//! one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use conclave_identity::ServiceKey;
use conclave_order::limits::Limits;
use conclave_order::op::drop::DropGroup;
use conclave_order::op::recovery::{AcceptLoss, Declare, EndHold, Next, Prolong};
use conclave_order::rows::RecoveryRow;
use conclave_order::{Backend, Batch, Event, Keys, Op, Rows, Stop, Transaction, run_batch};
use conclave_proto::service::{Cause, Generation, Loss};
use conclave_proto::{GroupId, Refusal, UnixMs};

use crate::config::{Clock, Durability};
use crate::error::StartError;
use crate::recovery::next;
use crate::sqlite::open::{self, DATABASE_FILE, DirectoryLock};
use crate::sqlite::{Place, Store, StoreError, Usage};

/// Folder beside the database in which a copy is made ready.
const RESTORING: &str = "restoring";

/// Recovery of a data directory.
#[derive(Debug, Clone)]
pub struct Recovery {
    data_dir: PathBuf,
    clock: Clock,
    /// After so many outputs it stops, as if it were killed there: for tests.
    outputs: Arc<AtomicUsize>,
}

impl Recovery {
    /// Recovery of this data directory.
    #[must_use]
    pub fn of(data_dir: impl AsRef<Path>) -> Self {
        Self {
            data_dir: data_dir.as_ref().to_owned(),
            clock: Clock::default(),
            outputs: Arc::new(AtomicUsize::new(usize::MAX)),
        }
    }

    /// Stops after so many outputs, as if it were killed there: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn killed_after(self, outputs: usize) -> Self {
        self.outputs.store(outputs, Ordering::Relaxed);
        self
    }

    /// Something has been done that the disk shows.
    fn output(&self) -> Result<(), StartError> {
        let left = self.outputs.load(Ordering::Relaxed);
        let left = left.checked_sub(1).ok_or(StartError::Killed)?;
        self.outputs.store(left, Ordering::Relaxed);
        Ok(())
    }

    async fn open(&self) -> Result<(Store, Option<Arc<DirectoryLock>>), StartError> {
        Ok(Store::open_for_command(&self.data_dir).await?)
    }

    fn hold(&self, hold_ms: u64) -> UnixMs {
        UnixMs(self.clock.now().0.saturating_add(hold_ms))
    }

    /// Declares that the service was put back, whatever was declared before, and holds all logs for so long, or as long as they are held already.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn declare(&self, hold_ms: u64) -> Result<Generation, StartError> {
        let (mut store, _lock) = self.open().await?;
        let ends = self.hold(hold_ms);
        let generation = self.begin(&mut store, None, ends).await?;
        store.let_go().await?;
        Ok(generation)
    }

    /// For whom most is stored, and of which groups, at most so many of each: the most first.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn usage(&self, most: u32) -> Result<Usage, StartError> {
        let (mut store, _lock) = self.open().await?;
        let usage = store.usage(most).await?;
        store.let_go().await?;
        Ok(usage)
    }

    /// Holds all logs for so long from now on, and what is waited for too, unless they are held longer already. Declares nothing.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn prolong(&self, hold_ms: u64) -> Result<(), StartError> {
        let (mut store, _lock) = self.open().await?;
        if store.generation().await?.is_none() {
            return Err(StartError::NeverRan);
        }
        let ends = self.hold(hold_ms);
        once(&mut store, Op::Prolong(Prolong { ends })).await?;
        store.let_go().await?;
        Ok(())
    }

    async fn begin(
        &self,
        store: &mut Store,
        known: Option<&Generation>,
        ends: UnixMs,
    ) -> Result<Generation, StartError> {
        let next = self.next(store, known).await?;
        let generation = next.generation;
        let hold = Some(ends);
        let op = Op::Declare(Box::new(Declare { next, hold }));
        once(store, op).await?;
        Ok(generation)
    }

    /// A generation to follow the stored one.
    async fn next(
        &self,
        store: &mut Store,
        known: Option<&Generation>,
    ) -> Result<Next, StartError> {
        let seed = store.service_seed().await?;
        let seed = seed.ok_or(StartError::NeverRan)?;
        let service = ServiceKey::from_bytes(&seed);
        let present = store.generation().await?.map(|(generation, _)| generation);
        let cause = (Cause::Restored, self.clock.now());
        next(&service, present.as_ref(), known, cause)
    }

    /// Gives up what logs did not get back: of one group, or of all. None: nothing was held. Logs that were held though nothing was known to be
    /// missing, as those of groups that members brought, go on, and no loss is declared of them. A hold over all logs ends where it is not of one group.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn accept_loss(
        &self,
        group: Option<GroupId>,
    ) -> Result<Option<Vec<Loss>>, StartError> {
        let (mut store, _lock) = self.open().await?;
        let seed = store.service_seed().await?;
        let service = ServiceKey::from_bytes(&*seed.ok_or(StartError::NeverRan)?);
        let all = (UnixMs(i64::MAX.unsigned_abs()), u32::MAX);
        let mut keys = Keys::default();
        keys.services.insert(());
        keys.ended.insert(all);
        let mut rows = load(&mut store, &keys).await?;
        let held: Vec<RecoveryRow> = rows.ended.get(&all).cloned().flatten().unwrap_or_default();
        let mut losses = None;
        let hold = rows.services.get(&()).copied().flatten();
        if let Some(now) = hold.and_then(|row| row.hold).filter(|_| group.is_none()) {
            once(&mut store, Op::EndHold(EndHold { now })).await?;
            losses = Some(Vec::new());
        }
        for row in held {
            if group.is_some_and(|group| group != row.log.group) {
                continue;
            }
            let losses = losses.get_or_insert_with(Vec::new);
            let op = loop {
                match AcceptLoss::judge(&service, &rows, &row) {
                    Ok(op) => break op,
                    Err(Stop::Lacks(keys)) => rows.extend(load(&mut store, &keys).await?),
                    Err(stop) => return Err(StoreError::from(stop).into()),
                }
            };
            let loss = op.loss;
            let op = Op::AcceptLoss(Box::new(op));
            if let Event::LossAccepted = once(&mut store, op).await? {
                losses.push(loss);
            }
        }
        store.let_go().await?;
        Ok(losses)
    }

    /// What there is of a group, for whoever is about to remove it.
    ///
    /// # Errors
    /// [`StartError::NoGroup`], and others.
    pub async fn group(&self, group: GroupId) -> Result<Holding, StartError> {
        let (mut store, _lock) = self.open().await?;
        let holding = store.holding(&group).await?;
        store.let_go().await?;
        holding.ok_or(StartError::NoGroup)
    }

    /// Removes a group with all that belongs to it, also beside a running service, so that a member can bring another of its id. What was signed of it
    /// holds no longer: a generation begins, and everybody looks again. One that no member brought only where that is said.
    ///
    /// # Errors
    /// [`StartError::NoGroup`], [`StartError::FoundedHere`], and others.
    pub async fn drop_group(
        &self,
        group: GroupId,
        even_if_founded_here: bool,
    ) -> Result<Holding, StartError> {
        let (mut store, _lock) = self.open().await?;
        let holding = store.holding(&group).await?.ok_or(StartError::NoGroup)?;
        if !holding.brought && !even_if_founded_here {
            return Err(StartError::FoundedHere);
        }
        let next = self.next(&mut store, None).await?;
        let op = DropGroup {
            group,
            next,
            even_if_founded_here,
        };
        once(&mut store, Op::DropGroup(Box::new(op))).await?;
        store.let_go().await?;
        Ok(holding)
    }

    /// Copies the database, also beside a running service, into a file that is not there yet. It holds the service's key: only its owner may
    /// read it.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn backup(&self, file: &Path) -> Result<(), StartError> {
        let (mut store, _lock) = self.open().await?;
        let copy = new_private(file).map_err(StoreError::Directory)?;
        let name = file.to_str().ok_or(StartError::NoText)?;
        let copied = store.copy_into(name).await;
        if copied.is_err() {
            // What is left of it is no copy. The error that counts is the one before.
            let _ = std::fs::remove_file(file);
        }
        copied?;
        copy.sync_all().map_err(StoreError::Directory)?;
        store.let_go().await?;
        Ok(())
    }

    /// Puts a copy in the place of the database, and declares it before anybody can log in: whenever this is interrupted, what stands there is
    /// what was there before, or the copy with its declaration. What was there before is kept beside it. No service may run.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn restore(&self, file: &Path, hold_ms: u64) -> Result<Restored, StartError> {
        let _lock = open::lock(&self.data_dir)?;
        let folder = self.data_dir.join(RESTORING);
        let io = StoreError::Directory;
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(io)?;
            self.output()?;
        }
        open::create_private(&folder).map_err(io)?;
        self.output()?;
        let copy = folder.join(DATABASE_FILE);
        std::fs::copy(file, &copy).map_err(|source| StartError::Copy {
            file: file.to_owned(),
            source,
        })?;
        self.output()?;
        // What was there before may know of a later generation; it need not be readable.
        let database = self.data_dir.join(DATABASE_FILE);
        let (mut known, mut unread) = (None, None);
        if database.exists() {
            match self.newest_known().await {
                Ok(newest) => known = newest,
                Err(error) => unread = Some(error),
            }
        }
        let mut store = Store::open(place(&folder)).await?;
        self.output()?;
        if !store.is_sound().await? {
            return Err(StartError::Unsound);
        }
        let ends = self.hold(hold_ms);
        let generation = self.begin(&mut store, known.as_ref(), ends).await?;
        self.output()?;
        store.note_running(None).await?;
        self.output()?;
        // Folds the write-ahead log in: the file stands for itself.
        store.close().await;
        File::open(&copy)
            .and_then(|file| file.sync_all())
            .map_err(io)?;
        self.output()?;
        let before = self.put_in_place(&copy)?;
        std::fs::remove_dir_all(&folder).map_err(io)?;
        Ok(Restored {
            generation,
            before,
            unread,
        })
    }

    async fn newest_known(&self) -> Result<Option<Generation>, StoreError> {
        let mut store = Store::open(place(&self.data_dir)).await?;
        let generation = store.generation().await;
        store.close().await;
        Ok(generation?.map(|(generation, _)| generation))
    }

    /// Keeps what is there under another name, and puts the copy in its place in one step.
    fn put_in_place(&self, copy: &Path) -> Result<Option<PathBuf>, StartError> {
        let io = StoreError::Directory;
        let database = self.data_dir.join(DATABASE_FILE);
        let name = format!("{DATABASE_FILE}.before-{}", self.clock.now().0);
        let before = self.data_dir.join(&name);
        let there = database.exists();
        if there {
            std::fs::hard_link(&database, &before).map_err(io)?;
            self.output()?;
            // A log that was not folded in belongs to the old file.
            for end in ["-wal", "-shm"] {
                let log = self.data_dir.join(format!("{DATABASE_FILE}{end}"));
                if log.exists() {
                    let to = self.data_dir.join(format!("{name}{end}"));
                    std::fs::rename(log, to).map_err(io)?;
                    self.output()?;
                }
            }
        }
        std::fs::rename(copy, &database).map_err(io)?;
        self.output()?;
        let folder = File::open(&self.data_dir);
        folder.and_then(|folder| folder.sync_all()).map_err(io)?;
        self.output()?;
        Ok(there.then_some(before))
    }
}

/// What a service has of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Whether a member brought it: otherwise it was founded here.
    pub brought: bool,
    /// Entries of its log.
    pub entries: u64,
    /// Its documents.
    pub documents: u64,
    /// Their records.
    pub records: u64,
    /// Devices that are members.
    pub members: u64,
}

impl std::fmt::Display for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            entries,
            documents,
            records,
            members,
            ..
        } = self;
        let how = if self.brought {
            "brought by a member"
        } else {
            "founded here"
        };
        write!(
            f,
            "{how}; devices: {members}, entries: {entries}, documents: {documents}, records: {records}"
        )
    }
}

/// A database that was put back.
#[derive(Debug)]
pub struct Restored {
    /// The generation that begins with it.
    pub generation: Generation,
    /// Where the database is that it replaced, if there was one.
    pub before: Option<PathBuf>,
    /// Why that one could not be read, where it could not: it may have declared a later generation.
    pub unread: Option<StoreError>,
}

fn place(directory: &Path) -> Place {
    Place {
        directory: directory.to_owned(),
        durability: Durability::Full,
        max_bytes: None,
    }
}

fn new_private(file: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file)
}

async fn load(store: &mut Store, keys: &Keys) -> Result<Rows, StoreError> {
    let mut transaction = store.begin().await?;
    Ok(transaction.load(keys).await?)
}

/// Runs an operation; nobody else is asked.
pub(crate) async fn once(store: &mut Store, op: Op) -> Result<Event, StartError> {
    // Nothing of it is bounded by what an operator sets.
    let limits = Limits::OWN;
    let mut events = Vec::new();
    for ended in run_batch(store, Batch::new(vec![op], limits), &()).await {
        let end = ended.end();
        ended
            .failure
            .map_or(Ok(()), Err)
            .map_err(StoreError::from)?;
        events.extend(ended.batch.finish(end));
    }
    match events.pop() {
        Some(Event::Refused(Refusal::Storage)) | None => Err(StartError::Meanwhile),
        Some(Event::Refused(other)) => Err(StoreError::from(Stop::Refused(other)).into()),
        Some(event) => Ok(event),
    }
}
