//! `group policy`: the rules of a group.

use clap::{Args, Subcommand, ValueEnum};
use conclave_client::proto::policy::{JoinerAccess, Pinned};
use conclave_client::proto::{GroupId, GroupPolicy, Role};
use conclave_client::{Operation, Outcome, PolicyChange};

use crate::context::{Context, answer};
use crate::failure::Result;
use crate::output::{Shown, columns, counted};
use crate::target::Target;

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the rules of a group
    Show {
        /// The group
        group: String,
    },
    /// Change rules of a group; what is not named stays
    Set {
        /// The group
        group: String,
        #[command(flatten)]
        rules: Box<Rules>,
    },
}

/// What somebody who joins can read.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Readable {
    /// All that the documents hold
    Everything,
    /// What the documents hold when they join, and what follows; no older changes
    FromJoin,
}

/// Whom members may let in, of the people that they know.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LetIn {
    /// Contacts whose safety number was compared
    Verified,
    /// Any contact, also where nobody compared anything: trust on first use
    Known,
}

/// Whether something is done.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Switch {
    /// It is
    On,
    /// It is not
    Off,
}

/// New rules.
#[derive(Debug, Args)]
#[group(id = "rules", required = true, multiple = true)]
pub struct Rules {
    /// What members may do who were given no other role: viewer, editor or admin
    #[arg(long, value_name = "ROLE")]
    default_role: Option<Role>,
    /// Whom members may invite, and whose invitation they may accept (owners change this)
    #[arg(long, value_name = "WHOM")]
    let_in: Option<LetIn>,
    /// What somebody who joins can read
    #[arg(long, value_name = "WHAT")]
    joiners_read: Option<Readable>,
    /// Whether the short forms of documents tell who wrote what, and `doc blame` shows it
    #[arg(long, value_name = "WHETHER")]
    attribution: Option<Switch>,
    /// Days after which a device's own key is renewed
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    device_key_days: Option<u16>,
    /// Days after which documents get new keys
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u16).range(1..))]
    document_key_days: Option<u16>,
    /// Edits after which a document's short form is made anew
    #[arg(long, value_name = "EDITS", value_parser = clap::value_parser!(u32).range(1..))]
    short_form_edits: Option<u32>,
    /// Bytes of edits after which a document's short form is made anew
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    short_form_bytes: Option<u32>,
    /// Sizes of edits are rounded up to a multiple of this many bytes, so that they tell less
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1..))]
    padding_bytes: Option<u16>,
}

impl From<Rules> for PolicyChange {
    fn from(rules: Rules) -> Self {
        Self {
            default_role: rules.default_role,
            pinned: rules.let_in.map(|whom| match whom {
                LetIn::Verified => Pinned::Verified,
                LetIn::Known => Pinned::FirstUse,
            }),
            joiner_access: rules.joiners_read.map(|readable| match readable {
                Readable::Everything => JoinerAccess::LiveContent,
                Readable::FromJoin => JoinerAccess::FromJoin,
            }),
            attribution: rules.attribution.map(|it| matches!(it, Switch::On)),
            max_leaf_age_days: rules.device_key_days,
            max_root_age_days: rules.document_key_days,
            snapshot_after_records: rules.short_form_edits,
            snapshot_after_bytes: rules.short_form_bytes,
            padding_bytes: rules.padding_bytes,
        }
    }
}

/// Runs one of them.
///
/// # Errors
/// [`Failure`](crate::failure::Failure).
pub async fn run(context: &Context, command: Command) -> Result<Shown> {
    match command {
        Command::Show { group } => show(context, &group).await,
        Command::Set { group, rules } => set(context, &group, (*rules).into()).await,
    }
}

pub(super) async fn policy(context: &Context, group: GroupId) -> Result<GroupPolicy> {
    let policy = answer!(context.run(Operation::Policy { group }).await?, Outcome::Policy(policy) => policy)?;
    Ok(*policy)
}

async fn show(context: &Context, group: &str) -> Result<Shown> {
    let group = context.find_group(group).await?.group;
    context.catch_up().await?;
    let reached = context.refresh(group).await?;
    context.note_stale(reached);
    let policy = policy(context, group).await?;
    let text = columns(&rows(&policy));
    Ok(Shown::new(text, "group", group).with("policy", policy))
}

/// The rules that have an effect.
fn rows(policy: &GroupPolicy) -> Vec<Vec<String>> {
    let days = |days: u16| format!("after {}", counted(days.into(), "day"));
    let let_in = match policy.trust.pinned {
        Pinned::Nobody => "nobody who is only a contact",
        Pinned::Verified => "verified contacts only",
        Pinned::FirstUse => "any contact, verified or not",
    };
    let readable = match policy.joiner_access {
        JoinerAccess::LiveContent => "everything",
        JoinerAccess::FromJoin => "from their joining on",
    };
    let short_form = format!(
        "after {} or {}",
        counted(policy.snapshot_after_records as usize, "edit"),
        counted(policy.snapshot_after_bytes as usize, "byte"),
    );
    let attribution = match policy.attribution {
        0 => "no",
        _ => "yes, and shown",
    };
    let sizes = match policy.padding_bytes {
        1 => "exact".to_owned(),
        step => format!("in steps of {step} bytes"),
    };
    [
        (
            "role of members without another",
            policy.default_role.to_string(),
        ),
        ("who can be let in", let_in.to_owned()),
        ("who joins can read", readable.to_owned()),
        (
            "keys of devices are renewed",
            days(policy.max_leaf_age_days),
        ),
        (
            "keys of documents are renewed",
            days(policy.max_root_age_days),
        ),
        ("short forms of documents are made", short_form),
        ("who wrote what is kept", attribution.to_owned()),
        ("sizes of edits show", sizes),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .into()
}

async fn set(context: &Context, group: &str, change: PolicyChange) -> Result<Shown> {
    let target = context.find_group(group).await?;
    let (group, target) = (target.group, Target::group(&target));
    let operation = Operation::ChangePolicy {
        group,
        change: Box::new(change),
    };
    let done = context.run_ordered(operation, "changing the rules").await?;
    let text = match done {
        Some(_) => "the rules of the group are changed",
        None => "the change is remembered",
    };
    Ok(Shown::new(text, "group", group)
        .to(target)
        .queued(done.is_none()))
}
