//! What every command works with: the home, an open session, waiting with a spinner, and finding things by name.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conclave_client::proto::{DocumentId, GroupId};
use conclave_client::store::StoreError;
use conclave_client::{
    Config, Connection, DeviceEvent, Error, Event, GroupInfo, Opening, Operation, Outcome, Pause,
    PauseInfo, RemoteError, Session, Setup, Trouble, UnderWay,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::address::{OPEN_TO_OTHERS, is_open_to_others};
use crate::args::Global;
use crate::commands::pause::kept;
use crate::failure::{Exit, Failure, Result};
use crate::home::Home;
use crate::output::{Form, Shown, counted, note};
use crate::say;
use crate::terminal::on_one_line;
use crate::told::Told;
use crate::unlock::unlock;

/// Time between two turns of the spinner.
const TICK: Duration = Duration::from_millis(120);

/// How long it counts that the service was not reached: until then nothing is tried again within one command.
const MISSED_COUNTS: Duration = Duration::from_secs(10);

/// Code of what waits until a clock is set.
const WAITS_FOR_CLOCK: &str = "engine.waits_for_clock";
/// The service takes no more of a kind for now.
const WAITS_FOR_PACE: &str = "engine.waits_for_pace";
const COLLECTS: &str = "refused.recovering";
/// The same of what is asked of a group.
const WAITS_FOR_RECOVERY: &str = "engine.waits_for_recovery";

/// Takes the one kind of outcome that an operation has.
macro_rules! answer {
    ($outcome:expr, $pattern:pat => $value:expr) => {
        match $outcome {
            $pattern => Ok($value),
            _ => Err($crate::failure::Failure::from(
                conclave_client::Error::UnexpectedAnswer,
            )),
        }
    };
}
pub(crate) use answer;

/// An open device, and how this command was called.
#[derive(Debug)]
pub struct Context {
    /// Options of every command.
    pub global: Global,
    /// The home folder.
    pub home: Home,
    session: Session,
    has_server: bool,
    connected: AtomicBool,
    /// Groups that this command has to do with.
    touched: Mutex<BTreeSet<GroupId>>,
    /// Documents that it has brought into step, or would have.
    synced: Mutex<BTreeSet<(GroupId, DocumentId)>>,
    /// Whether it has to do with all of them.
    pub(crate) touched_all: AtomicBool,
    /// What its result tells.
    pub(crate) told: Mutex<Told>,
    /// Whether it was said what is still under way.
    unsettled: AtomicBool,
    began: Instant,
    /// A service answered under the address that was given.
    answered: AtomicBool,
    missed: Mutex<Missed>,
}

/// Why the service was not reached.
#[derive(Debug, Default)]
struct Missed {
    why: Option<(Instant, Failure)>,
    /// What was shown is what this device has, and this was told as the reason.
    told: Option<Failure>,
}

/// Whether something reached the service in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// Yes.
    Yes,
    /// No: it is queued.
    No,
    /// Yes, but it shows an older or another state than this device has: nothing is sent there.
    Away,
    /// Yes, but sending or receiving is paused here.
    Paused,
}

impl Reached {
    /// The same, where it is about these groups.
    pub fn with(self, groups: &[GroupInfo]) -> Self {
        match self {
            Self::Yes if groups.iter().any(|group| group.active && group.away) => Self::Away,
            other => other,
        }
    }

    /// Whether it is only queued.
    pub fn is_queued(self) -> bool {
        self != Self::Yes
    }
}

impl Context {
    /// Opens the store of this home, or finds the process that has it open.
    ///
    /// # Errors
    /// [`Failure`]: no store, no secret, a wrong one.
    pub async fn open(global: &Global) -> Result<Self> {
        let began = Instant::now();
        let home = Home::find(global)?;
        let server = home.server(global)?;
        if !home.store().exists() {
            return Err(missing(&home));
        }
        let asked = Arc::new(Mutex::new(None));
        let opener = opener(home.clone(), global.clone(), Arc::clone(&asked));
        let patience = Duration::from_secs(global.timeout);
        // A process that has the store open needs no secret from here: whoever reaches its socket is its owner.
        let session = Session::find(home.store(), patience, opener).await;
        let session = session.map_err(|error| {
            let refused = asked.lock().ok().and_then(|mut asked| asked.take());
            refused.unwrap_or_else(|| error.into())
        })?;
        Ok(Self::new(global, home, session, server.is_some(), began))
    }

    /// Makes a new device in this home.
    ///
    /// # Errors
    /// [`Failure`]: there is one already, no secret.
    pub async fn create(global: &Global, setup: Setup) -> Result<Self> {
        let began = Instant::now();
        let home = Home::find(global)?;
        let server = home.server(global)?;
        let config = unlock(configure(&home, global, server.as_deref()), global, true).await?;
        let session = Session::create(config, setup).await?;
        Ok(Self::new(global, home, session, server.is_some(), began))
    }

    fn new(
        global: &Global,
        home: Home,
        session: Session,
        has_server: bool,
        began: Instant,
    ) -> Self {
        // Told with the address; after that `status` tells it.
        let open = global.server.as_deref().is_some_and(is_open_to_others);
        if open && !global.offline {
            note(OPEN_TO_OTHERS, global.json);
        }
        Self {
            global: global.clone(),
            home,
            session,
            has_server,
            connected: AtomicBool::default(),
            touched: Mutex::default(),
            synced: Mutex::default(),
            touched_all: AtomicBool::default(),
            told: Mutex::default(),
            unsettled: AtomicBool::default(),
            began,
            answered: AtomicBool::default(),
            missed: Mutex::default(),
        }
    }

    /// Ends what this command does with the service, and says with the result why the service was not reached, where that matters.
    ///
    /// # Errors
    /// The command's own, then those of [`Context::remember_server`].
    pub async fn finish(&self, done: Result<Shown>) -> Result<Shown> {
        let form = self.global.form();
        let offline = self.global.offline;
        let missed = {
            let mut missed = self.missed();
            std::mem::take(&mut *missed)
        };
        let left = self.leave_service().await;
        let mut shown = done?;
        left?;
        if shown.is_queued()
            && let Some((why, pause)) = self.kept().await
        {
            shown = shown.rests(&why, pause);
        }
        match (missed.told, missed.why) {
            _ if offline => Ok(shown),
            (Some(why), _) => Ok(shown.not_reached(&why)),
            (None, Some((_, why))) if shown.is_queued() => {
                not_reached(&why, "", form);
                Ok(shown.not_reached(&why))
            }
            _ => Ok(shown),
        }
    }

    /// Why what this command wrote stays on this device, where something is paused.
    async fn kept(&self) -> Option<(String, PauseInfo)> {
        let synced = {
            let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            synced.clone()
        };
        for (group, document) in synced {
            let pause = if document == DocumentId::directory(&group) {
                match self.session.run(Operation::Status).await {
                    Ok(Outcome::Status(status)) => Some(PauseInfo {
                        device: Pause {
                            receive: None,
                            ..status.pause
                        },
                        ..PauseInfo::default()
                    }),
                    _ => None,
                }
            } else {
                let listed = self.documents(group).await.unwrap_or_default();
                let info = listed.into_iter().find(|it| it.document == document);
                info.and_then(|info| info.pause)
            };
            let kept = pause.and_then(|pause| Some((kept(&pause, &document)?, pause)));
            if kept.is_some() {
                return kept;
            }
        }
        None
    }

    /// A command that went online sends what waits, in all groups and documents, and takes what is on its way, within its time; what is missing
    /// then is said.
    async fn leave_service(&self) -> Result<()> {
        if self.connected.swap(false, Ordering::Relaxed) {
            self.settle("sending what waits").await;
        }
        self.remember_server()
    }

    /// Ends the session.
    ///
    /// # Errors
    /// As [`Context::finish`], and when the store could not be closed.
    pub async fn close(self) -> Result<()> {
        self.leave_service().await?;
        Ok(self.session.close().await?)
    }

    /// Remembers the address that was given, once a service answered there. Another process has its own.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remember_server(&self) -> Result<()> {
        match &self.global.server {
            Some(server)
                if self.answered.load(Ordering::Relaxed) && self.session.client().is_some() =>
            {
                self.home.remember_server(server.trim())
            }
            _ => Ok(()),
        }
    }

    /// What is left of the time that this command may wait for the service.
    pub fn time_left(&self) -> Duration {
        Duration::from_secs(self.global.timeout).saturating_sub(self.began.elapsed())
    }

    /// Waits until nothing is under way between this device and the service; says what is where time runs out.
    async fn settle(&self, waiting: &str) {
        if self.unsettled.load(Ordering::Relaxed) {
            return;
        }
        let limit_ms = u64::try_from(self.time_left().as_millis()).ok();
        let spinner = Spinner::new(waiting, self.global.json);
        let done = tokio::select! {
            done = self.session.run(Operation::Settled { limit_ms }) => done,
            never = self.show_progress(&spinner, |_| true) => match never {},
        };
        drop(spinner);
        if done.is_ok_and(|outcome| matches!(outcome, Outcome::Done)) {
            return;
        }
        self.unsettled.store(true, Ordering::Relaxed);
        if let Ok(Outcome::Status(status)) = self.session.run(Operation::Status).await
            && let Some(text) = unfinished(&status.under_way)
        {
            note(
                &format!(
                    "note: not finished in time: {text}; the next command that connects goes on with it"
                ),
                self.global.json,
            );
        }
    }

    /// Shows how far long documents are on their way. Never ends.
    async fn show_progress(
        &self,
        spinner: &Spinner,
        is_meant: impl Fn(&DocumentId) -> bool,
    ) -> Infallible {
        // Where no events are told there is nothing to show.
        let Ok(mut events) = self.session.events().await else {
            return std::future::pending().await;
        };
        while let Some(event) = events.next().await {
            if let Event::Device(DeviceEvent::DocumentProgress {
                document,
                done,
                total,
                ..
            }) = event
                && is_meant(&document)
            {
                spinner.show(done, total, "records");
            }
        }
        std::future::pending().await
    }

    /// Brings this device into step with the service, where that can be reached: what is shown next is what the service knows.
    ///
    /// # Errors
    /// As [`Context::connect`].
    pub async fn catch_up(&self) -> Result<Reached> {
        let reached = self.connect().await?;
        if reached == Reached::Yes {
            self.settle("looking at the service").await;
        }
        Ok(reached)
    }

    /// Notes that this command has to do with a group.
    pub fn touch(&self, group: GroupId) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.insert(group);
    }

    /// Groups that this command has to do with.
    pub fn touched(&self) -> BTreeSet<GroupId> {
        let touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.clone()
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Performs an operation that does not wait for the service.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn run(&self, operation: Operation) -> Result<Outcome> {
        match self.session.run(operation).await? {
            Outcome::Unwritable { place } => Err(Failure::new(
                "cli.unwritable",
                Exit::Failed,
                format!(
                    "{}: this stands for something that JSON cannot hold; it can be left as it was or removed, not changed",
                    on_one_line(&place)
                ),
                "put back what stood there; objects with \"$conclave\" are explained in the documentation of JSON documents",
            )),
            outcome => Ok(outcome),
        }
    }

    /// Time to wait for the service; none when nothing is to be waited for.
    pub fn patience(&self) -> Option<Duration> {
        (!self.global.offline).then(|| Duration::from_secs(self.global.timeout))
    }

    /// Demands a service's address, for commands that are nothing without one.
    ///
    /// # Errors
    /// None was ever given.
    pub fn need_server(&self) -> Result<()> {
        if self.has_server || self.global.offline {
            return Ok(());
        }
        Err(no_server())
    }

    /// Performs an operation that is done when the service has ordered it. None means that it is queued: the device remembers it.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn run_ordered(
        &self,
        operation: Operation,
        waiting: &str,
    ) -> Result<Option<Outcome>> {
        let _spinner = Spinner::new(waiting, self.global.json);
        self.run_quietly_ordered(operation).await
    }

    /// The same for a caller that shows by itself what is waited for.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn run_quietly_ordered(&self, operation: Operation) -> Result<Option<Outcome>> {
        self.need_server()?;
        let Some(patience) = self.patience() else {
            return Ok(self.session.begin(operation).await?);
        };
        let failed = Mutex::new(None);
        let give_up = async {
            tokio::select! {
                missed = self.until_missed() => {
                    if let (Err(failure), Ok(mut failed)) = (missed, failed.lock()) {
                        *failed = Some(failure);
                    }
                }
                () = tokio::time::sleep(patience) => self.miss(self.late()),
            }
        };
        let outcome = match self.session.run_unless(operation, give_up).await {
            Err(error)
                if [WAITS_FOR_CLOCK, WAITS_FOR_PACE, WAITS_FOR_RECOVERY]
                    .contains(&error.code()) =>
            {
                self.held_back(error);
                return Ok(None);
            }
            outcome => outcome?,
        };
        if outcome.is_some() {
            self.connected.store(true, Ordering::Relaxed);
        }
        match failed.into_inner().unwrap_or_default() {
            Some(failure) if outcome.is_none() => Err(failure),
            _ => Ok(outcome),
        }
    }

    /// Waits until the service holds all of a document, and everything it holds is here.
    ///
    /// # Errors
    /// Those of the operation, except that time ran out.
    pub async fn sync(
        &self,
        group: GroupId,
        document: DocumentId,
        waiting: &str,
    ) -> Result<Reached> {
        self.touch(group);
        {
            let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
            synced.insert((group, document));
        }
        let begun = Instant::now();
        if self.connect().await? == Reached::No {
            return Ok(Reached::No);
        }
        let patience = self.patience().unwrap_or_default();
        let left = patience.saturating_sub(begun.elapsed());
        let limit_ms = u64::try_from(left.as_millis()).ok();
        let spinner = Spinner::new(waiting, self.global.json);
        let synced = self.session.run(Operation::Synced {
            group,
            document,
            limit_ms,
        });
        let synced = tokio::select! {
            synced = synced => synced,
            missed = self.until_missed() => return missed.map(|()| Reached::No),
            never = self.show_progress(&spinner, |it| *it == document) => match never {},
        };
        drop(spinner);
        match synced {
            Ok(_) => Ok(self.reached()),
            Err(error) if error.code() == "client.timed_out" => {
                self.miss(self.late());
                Ok(Reached::No)
            }
            Err(error) if error.code() == "pause.on" => {
                self.reached();
                Ok(Reached::Paused)
            }
            Err(error) if error.code() == "engine.out_of_step" => {
                self.reached();
                Ok(Reached::Away)
            }
            Err(error) if [WAITS_FOR_CLOCK, COLLECTS].contains(&error.code()) => {
                self.held_back(error);
                Ok(Reached::No)
            }
            // The cause is known with the connection.
            Err(error) if error.code() == "engine.other_life" => {
                self.until_missed().await?;
                Ok(Reached::No)
            }
            Err(error) => Err(self.lost(group).await?.unwrap_or_else(|| error.into())),
        }
    }

    /// What is the matter when this device is no member any more, which it may have learnt just now.
    async fn lost(&self, group: GroupId) -> Result<Option<Failure>> {
        let gone = self
            .groups()
            .await?
            .iter()
            .any(|info| info.group == group && !info.active);
        Ok(gone.then(|| Error::GroupLost.into()))
    }

    /// The service has what this command asked for; what was late besides is no reason to say that it was not reached.
    pub fn has_it(&self) {
        self.reached();
    }

    /// The service was reached; a clock or its pace stands in the way, or it is collecting what it lost, and what is wanted is queued.
    fn held_back(&self, error: Error) {
        self.reached();
        self.miss(error.into());
    }

    fn reached(&self) -> Reached {
        self.connected.store(true, Ordering::Relaxed);
        self.was_answered();
        self.missed().why = None;
        Reached::Yes
    }

    /// Waits until what the service knows about a group (its members, its list of documents) is here.
    ///
    /// # Errors
    /// As [`Context::sync`].
    pub async fn refresh(&self, group: GroupId) -> Result<Reached> {
        self.sync(
            group,
            DocumentId::directory(&group),
            "looking at the service",
        )
        .await
    }

    /// Connects, where that is wanted: until the service is reached, it is known why not, or time is up. What just failed in this command
    /// is not tried again.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn connect(&self) -> Result<Reached> {
        let Some(patience) = self.patience() else {
            return Ok(Reached::No);
        };
        if !self.has_server {
            self.miss(no_server());
        }
        let missed_at = self.missed().why.as_ref().map(|(at, _)| *at);
        if missed_at.is_some_and(|at| at.elapsed() < MISSED_COUNTS) {
            return Ok(Reached::No);
        }
        let limit_ms = u64::try_from(patience.as_millis()).ok();
        let _spinner = Spinner::new("connecting", self.global.json);
        let outcome = self.run(Operation::Reach { limit_ms }).await?;
        let connection = answer!(outcome, Outcome::Connection(connection) => connection)?;
        self.note_connection(&connection).await
    }

    /// A service answered under the address that was given.
    pub fn was_answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Notes how the connection is, as an operation has found it.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn note_connection(&self, connection: &Connection) -> Result<Reached> {
        let why = match connection {
            Connection::Connected => return Ok(self.reached()),
            Connection::Trouble { cause, .. } => {
                if cause.is_of_the_service() {
                    self.was_answered();
                }
                self.say_trouble(cause).await?
            }
            Connection::Unused => no_server(),
            _ => self.late(),
        };
        self.miss(why);
        Ok(Reached::No)
    }

    /// What is the matter, in words: with what this device is called, where that matters.
    ///
    /// # Errors
    /// Those of the operation.
    pub async fn say_trouble(&self, cause: &Trouble) -> Result<Failure> {
        if !cause.is_other_life() {
            return Ok(say::trouble(cause, None));
        }
        let who = answer!(self.run(Operation::WhoAmI).await?, Outcome::WhoAmI(who) => who)?;
        Ok(say::trouble(cause, Some(&who.name)))
    }

    /// Waits until it is clear that waiting for the service is of no use.
    async fn until_missed(&self) -> Result<()> {
        if self.connect().await? == Reached::Yes {
            let outcome = self.run(Operation::Trouble).await?;
            let connection = answer!(outcome, Outcome::Connection(connection) => connection)?;
            self.note_connection(&connection).await?;
        }
        Ok(())
    }

    fn missed(&self) -> std::sync::MutexGuard<'_, Missed> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn miss(&self, why: Failure) {
        self.missed().why = Some((Instant::now(), why));
    }

    fn late(&self) -> Failure {
        let message = format!(
            "the service did not answer within {} s",
            self.global.timeout
        );
        let hint = "check the network and --server; --timeout SECONDS waits longer";
        Failure::new("client.timed_out", Exit::Offline, message, hint)
    }

    /// Whether this device is known to a service only once it is approved, which is no trouble for one that has just been made.
    pub fn waits_for_approval(&self) -> bool {
        let code = (Trouble::NotEnrolled).code();
        let missed = self.missed();
        missed.why.as_ref().is_some_and(|(_, why)| why.code == code)
    }

    /// Says on standard error that what is shown is what this device has, and why; and remembers it for the exit code. Who asked for it
    /// is not told.
    pub fn note_stale(&self, reached: Reached) {
        self.note_stale_and(reached, "this is what this device has; ");
    }

    /// The same with something else to say first.
    pub fn note_stale_and(&self, reached: Reached, before: &str) {
        if reached == Reached::Yes || self.global.offline || !self.has_server {
            return;
        }
        let mut missed = self.missed();
        if missed.told.is_some() {
            return;
        }
        let form = self.global.form();
        if reached == Reached::Away {
            let why = out_of_step();
            let text = why.to_text("note: this is what this device has; ", form);
            note(&text, form == Form::Json);
            missed.told = Some(why);
        } else if let Some((_, why)) = &missed.why {
            not_reached(why, before, form);
            missed.told = Some(why.clone());
        }
    }
}

fn not_reached(why: &Failure, before: &str, form: Form) {
    // Whoever only was late may have been reached: what is said of it says so itself.
    let reached = match why.code.as_str() {
        "client.timed_out" | WAITS_FOR_CLOCK | WAITS_FOR_PACE | WAITS_FOR_RECOVERY | COLLECTS => "",
        _ => "the service was not reached: ",
    };
    let before = format!("note: {before}{reached}");
    note(&why.to_text(&before, form), form == Form::Json);
}

fn out_of_step() -> Failure {
    let message = "the service shows another state than this device has";
    let hint = "`conclave findings list` says more; what is written here waits";
    Failure::new("engine.out_of_step", Exit::Offline, message, hint)
}

fn no_server() -> Failure {
    let hint = "name one with --server URL, once; `conclave serve` runs one";
    Failure::usage("no service is known", hint)
}

/// Gives the configuration with its secret when this process has to open the store: with the service's address as it is known then, since the
/// process that had the store before may have been the first to be told it. What a person has to be told is left in `refused`.
fn opener(
    home: Home,
    global: Global,
    refused: Arc<Mutex<Option<Failure>>>,
) -> Box<dyn Fn() -> Opening + Send + Sync> {
    Box::new(move || {
        let (home, global, refused) = (home.clone(), global.clone(), Arc::clone(&refused));
        Box::pin(async move {
            let unlocked = async {
                let server = home.server(&global)?;
                unlock(configure(&home, &global, server.as_deref()), &global, false).await
            };
            unlocked.await.map_err(|failure| {
                if failure.code == "store.in_use" {
                    return StoreError::InUse { path: home.store() }.into();
                }
                let told = RemoteError {
                    code: failure.code.clone(),
                    message: failure.message.clone(),
                    retryable: false,
                    until: None,
                };
                if let Ok(mut refused) = refused.lock() {
                    *refused = Some(failure);
                }
                Error::Remote(told)
            })
        })
    })
}

/// What is still under way, in words; none where nothing is.
fn unfinished(under_way: &UnderWay) -> Option<String> {
    let mut parts = Vec::new();
    if under_way.documents > 0 {
        parts.push(format!(
            "edits of {} wait to be sent",
            counted(under_way.documents, "document")
        ));
    }
    if under_way.returning > 0 {
        parts.push(format!(
            "{} being returned to the service",
            counted(under_way.returning, "log")
        ));
    }
    if under_way.intents > 0 {
        parts.push(format!(
            "{} to groups not made yet",
            counted(under_way.intents, "change")
        ));
    }
    if under_way.groups > 0 {
        parts.push(format!(
            "{} not up to date",
            counted(under_way.groups, "group")
        ));
    }
    if under_way.invitations > 0 {
        parts.push("invitations may still come".to_owned());
    }
    if under_way.publishing > 0 {
        parts.push("others cannot invite this device yet".to_owned());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// A failure that says that there is no store.
fn missing(home: &Home) -> Failure {
    let message = format!("there is no store in {}", home.folder().display());
    Failure::new(
        "store.missing",
        Exit::Failed,
        message,
        "create one with `conclave init --name NAME`, or name another folder with --home",
    )
}

/// Configuration without its secret.
fn configure(home: &Home, global: &Global, server: Option<&str>) -> Config {
    let config = match server.filter(|_| !global.offline) {
        Some(server) => Config::new(home.store(), server),
        None => Config::offline(home.store()),
    };
    let config = config.trust_service_clock(global.trust_service_clock);
    match &global.token {
        Some(token) => config.token(token.as_bytes()),
        None => config,
    }
}

/// A spinner on standard error while something is waited for. Shows nothing where that is no terminal.
#[derive(Debug)]
pub struct Spinner(ProgressBar);

impl Spinner {
    /// Begins to turn.
    pub fn new(message: &str, json: bool) -> Self {
        let bar = if json {
            ProgressBar::hidden()
        } else {
            ProgressBar::new_spinner()
        };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.set_message(on_one_line(message).into_owned());
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    /// Shows how many of how many are done: of what, in the plural.
    pub fn show(&self, done: u64, total: u64, what: &str) {
        let bar = "{spinner} {msg} [{bar:24}] {human_pos} of {human_len}";
        let bar = format!("{bar} {what} ({{elapsed}})");
        if let Ok(style) = ProgressStyle::with_template(&bar) {
            self.0.set_style(style.progress_chars("=> "));
        }
        self.0.set_length(total);
        self.0.set_position(done);
    }

    /// Changes what it says.
    pub fn say(&self, message: String) {
        self.0.set_message(on_one_line(&message).into_owned());
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
