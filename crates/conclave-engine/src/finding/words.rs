//! Findings in the words of people who use the program and know nothing of its inside.

#[cfg(test)]
use conclave_doc::At;
use conclave_proto::{DocumentId, UnixMs};

use super::held::held;
use super::{About, Finding, FindingKind, Step, Suspect, date};
use crate::clock::Span;

/// What people call the things of a finding, as far as this device knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The group.
    pub group: Option<String>,
    /// The document's title.
    pub document: Option<String>,
    /// Who is suspected: the user, also where the suspect is a device.
    pub suspect: Option<String>,
}

/// A finding for people: three sentences or so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words {
    /// What happened.
    pub happened: String,
    /// Who is at fault, as far as known.
    pub fault: String,
    /// What to do.
    pub remedy: String,
}

impl Words {
    /// All of it.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} {} {}", self.happened, self.fault, self.remedy)
    }
}

const NOBODY: &str = "Nobody is known to be at fault.";
const UNKNOWN: &str =
    "From here nobody can tell whether a backup was put back or the service is dishonest.";
const NOTHING: &str = "There is nothing to do.";
const BY_ITSELF: &str =
    "It is tried again by itself; if this stays, tell whoever runs the program.";
const ASK_OPERATOR: &str = "Tell the operator of the service.";

/// Something by its name, or by what it is.
pub(super) fn named(name: Option<&String>, otherwise: &str) -> String {
    match name {
        Some(name) => {
            let shown: String = name.chars().filter(|c| !c.is_control()).collect();
            format!("“{shown}”")
        }
        None => otherwise.to_owned(),
    }
}

pub(super) fn words(finding: &Finding, names: &Names) -> Words {
    let group = named(names.group.as_ref(), "a group");
    let place = match finding.about {
        About::Device => "this device".to_owned(),
        About::Group(_) => group.clone(),
        About::Document(of, id) if id == DocumentId::directory(&of) => {
            format!("the names in {group}")
        }
        About::Document(..) => named(names.document.as_ref(), "a document"),
    };
    let who = suspect(finding.suspect, names.suspect.as_ref());
    let (happened, fault, remedy) = match &finding.what {
        FindingKind::Failed { step, .. } => failed(*step, &place, &group, who.as_deref()),
        FindingKind::Record { fault, .. } => record(fault, &place, who.as_deref()),
        FindingKind::Held {
            at,
            sessions,
            may_void,
        } => held((at, *sessions, *may_void), finding.about, &place, names),
        kind => other(kind, &place, &group, who.as_deref()),
    };
    Words {
        happened: capital(&happened),
        fault: capital(&fault),
        remedy,
    }
}

/// As the beginning of a sentence.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(char::to_uppercase);
    first.into_iter().flatten().chain(chars).collect()
}

/// Who it was, to be put into a sentence.
fn suspect(suspect: Option<Suspect>, name: Option<&String>) -> Option<String> {
    Some(match (suspect?, name) {
        (Suspect::Service, _) => "the service".to_owned(),
        (Suspect::Device(device), Some(_)) => {
            format!("{} (device {})", named(name, ""), device.short())
        }
        (Suspect::Device(device), None) => {
            format!(
                "device {}, whose owner is not among your contacts",
                device.short()
            )
        }
        (Suspect::User(_), Some(_)) => named(name, ""),
        (Suspect::User(user), None) => {
            format!("user {}, who is not among your contacts", user.short())
        }
    })
}

fn probably(who: Option<&str>) -> String {
    match who {
        Some(who) => format!("Probably at fault: {who}."),
        None => NOBODY.to_owned(),
    }
}

/// The service shows less than it showed before.
fn ahead(missing: u64, seen: UnixMs, place: &str) -> Three {
    let when = match seen.0 {
        0 => "before".to_owned(),
        _ => format!("on {}", date(seen)),
    };
    let are = if missing == 1 { "is" } else { "are" };
    let changes = changes(missing);
    three(
        format!(
            "The service shows an older state of {place} than {when}: {changes} {are} missing there, none here."
        ),
        UNKNOWN,
        "If its operator put back a backup, ask for `conclave-ds recover`; otherwise do not trust it. What you write is kept here, and sent when the service has caught up.",
    )
}

fn changes(count: u64) -> String {
    match count {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    }
}

/// What a service that was put back, or lies about its history, is told of.
fn of_history(kind: &FindingKind, place: &str) -> Three {
    match kind {
        FindingKind::Returning { missing } => three(
            format!(
                "The service was put back, and says so. It lacks {} to {place} that {} here.",
                changes(*missing),
                if *missing == 1 { "is" } else { "are" }
            ),
            "Nobody, if the operator put back a backup.",
            "Nothing is lost here. What the service had signed is returned to it where this device kept it; go on editing: what you write is kept here, and sent when the service has what it lost.",
        ),
        FindingKind::CannotMerge => three(
            format!("After the service was put back, {place} went on there in a way that this device has no keys for."),
            "Nobody, if the operator put back a backup.",
            "Nothing is lost here, and nothing is sent. Bring other devices online that may have the keys. If none has, an admin can run `conclave group restart`; everything here goes along.",
        ),
        FindingKind::Parted => three(
            format!("After the service was put back, the membership of {place} went another way than here."),
            "Nobody, if the operator put back a backup.",
            "Nothing is lost here, and nothing is sent. An admin can run `conclave group restart`; everything here goes along.",
        ),
        FindingKind::NotReturned { .. } => three(
            format!("The service does not take back what it lost of {place}."),
            UNKNOWN,
            "Nothing is lost here. Bring other devices online that may have all of it, and tell the operator of the service.",
        ),
        FindingKind::Collecting => three(
            format!("The service is collecting what it lost in {place}."),
            "Nobody, if the operator put back a backup.",
            "Your edits are kept here and sent afterwards. Bring other devices online that may have what is missing.",
        ),
        FindingKind::Merging { missing } => three(
            format!(
                "After the service was put back, {place} went on without {}.",
                changes(*missing)
            ),
            "Nobody, if the operator put back a backup.",
            "They are here, and those whose authors may still write are being written in again, as they signed them; the rest is kept apart. Go on editing.",
        ),
        FindingKind::LossDeclared { lost } => three(
            format!(
                "The service gives up what it lost of {place}: {} that {} here.",
                changes(*lost),
                if *lost == 1 { "is" } else { "are" }
            ),
            "The operator of the service, who did not wait any longer, or nobody.",
            "What is here and may still be written is written in again; the rest is kept apart.",
        ),
        FindingKind::Contradicted => three(
            format!("The service showed two histories of {place}."),
            "It, or somebody with its key, is dishonest.",
            "The evidence is kept, and nothing is sent there. Talk to the other members by another way, and to the operator.",
        ),
        FindingKind::Replaced { key, before } => {
            let (key, before) = (digits(key), digits(before));
            three(
                format!("Another service answers here (key {key}…, before {before}…). Nothing was sent."),
                UNKNOWN,
                &format!("If it was set up anew, compare the key with its operator, then `conclave server accept {key}`. Otherwise check the address."),
            )
        }
        FindingKind::Withheld => three(
            format!("The service showed another member more of {place} than it shows here, and does not give it when it is asked."),
            "Probably the service; perhaps the connection, if what is missing is much.",
            "What is here stays readable, and goes on being sent. `conclave evidence list` shows what convicts the service, if anything does. Compare with the other members by another way, and ask the operator.",
        ),
        FindingKind::ParallelGeneration => three(
            format!("The service went on signing for {place} in a life of its that was over, beside the one that it is in now."),
            "The service, or a second copy of it that its operator left running.",
            "The evidence is kept: `conclave evidence list`. Tell the operator to stop the other copy; until then members may be shown different things.",
        ),
        FindingKind::PutBackOften => three(
            "The service was put back twice within thirty days.".to_owned(),
            "Probably the operator of the service.",
            "Ask the operator why. A service that does so to drop what members wrote cannot hide it, but each time holds up their work.",
        ),
        FindingKind::BadGeneration => three(
            "The service names itself by a statement that it did not sign, or that contradicts an earlier one. Nothing was sent.".to_owned(),
            "Probably the service, or whoever answers in its place.",
            "Tell the operator of the service.",
        ),
        _ => three(
            format!("The service shows a state of {place} under a wrong signature."),
            "Probably the service.",
            "Nothing follows from it. Tell the operator of the service.",
        ),
    }
}

/// The first digits of a key, for people to compare.
fn digits(key: &[u8; 32]) -> String {
    let [a, b, c, d, ..] = key;
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

fn own_clock(ahead_ms: i64, holds_back: bool) -> Three {
    let span = Span(ahead_ms.unsigned_abs());
    let direction = if ahead_ms < 0 { "slow" } else { "fast" };
    let waits = match holds_back {
        true => " Until it is set, new groups and changes of members wait here; edits go on.",
        false => "",
    };
    three(
        format!("This device's clock is {span} {direction}, compared with the service's.{waits}"),
        "Probably this device's clock; perhaps the service's.",
        "Compare both with a clock that is right. Set this device's if it is wrong; otherwise tell the operator of the service.",
    )
}

type Three = (String, String, String);

fn three(happened: String, fault: impl Into<String>, remedy: &str) -> Three {
    (happened, fault.into(), remedy.to_owned())
}

fn failed(step: Step, place: &str, group: &str, who: Option<&str>) -> Three {
    let store = "Probably the disk, or a copy that was put back.";
    match step {
        Step::MakeDirectory => three(
            format!("The list of titles of {group} could not be made."),
            NOBODY,
            "Create the group again.",
        ),
        Step::Title => three(
            format!("A name could not be written into the list of titles of {group}."),
            NOBODY,
            "Give the name again.",
        ),
        Step::CarryOver => three(
            format!("{place} could not be taken along into the group that takes the place of {group}."),
            NOBODY,
            "Export it here and import it there.",
        ),
        Step::LoadGroup => three(
            format!("A part of what this device keeps of {group} cannot be read."),
            store,
            "Stay connected: the device fetches what it can by itself.",
        ),
        Step::LoadMembership => three(
            format!("What this device keeps of its membership in {group} cannot be read."),
            store,
            "Stay connected: the device comes back into the group by itself.",
        ),
        Step::LoadDocument => three(
            format!("What this device keeps of {place} cannot be read. It is left as it is."),
            store,
            "Keep the store; update the program; read the document on another device.",
        ),
        Step::Follow => three(
            format!("The service does not let this device follow {group}."),
            probably(who),
            "Ask a member whether you are still in the group, and the operator of the service.",
        ),
        Step::TakeBack => three(
            format!("A change to {group} was refused and could not be taken back here. This device only reads the group from now on."),
            NOBODY,
            "Ask a member to remove this device and to invite it again.",
        ),
        Step::Return => three(
            format!("This device could not come back into {group} this time."),
            probably(who),
            "Stay connected: it goes on trying. If this stays, ask a member to add this device again.",
        ),
        Step::ChangeGroup => three(
            format!("A change to {group} that was waiting could not be made."),
            NOBODY,
            "Look at the group, and make the change again if it is still wanted.",
        ),
        Step::OpenDocument => three(
            format!("The service does not give {place}."),
            probably(who),
            ASK_OPERATOR,
        ),
        // Somebody is named exactly where it is what they signed.
        Step::ReadDocument if who.is_some() => three(
            format!("The state from which {place} would be opened here is one that nobody may write."),
            probably(who),
            "Ask that person about it. Whoever has the document open can copy it into a new one; an admin can delete this one: `conclave doc archive --delete`.",
        ),
        Step::ReadDocument => three(
            format!("What others wrote into {place} cannot be read here."),
            probably(who),
            "Update the program; if this stays, ask another member to look at the document.",
        ),
        Step::SendEdits => three(
            format!("Your edits of {place} could not be made ready to be sent. They are kept here."),
            NOBODY,
            BY_ITSELF,
        ),
        Step::PublishDocument => three(
            format!("The new document {place} could not be given to the service. It is kept here."),
            probably(who),
            "Export it, and look whether you may still write in the group.",
        ),
        Step::Condense => three(
            format!("The short form of {place}, from which others open it faster, could not be stored."),
            probably(who),
            BY_ITSELF,
        ),
        Step::CheckCondensed => three(
            format!("The short form of {place} that another member made could not be checked."),
            NOBODY,
            BY_ITSELF,
        ),
        Step::DeviceList => three(
            "The service gave a list of somebody's devices that is not the newest, or not theirs. Nobody was added.".to_owned(),
            probably(who),
            "Try again later; if this stays, ask the person to connect with a newer program.",
        ),
        Step::JoinOwn => three(
            format!("This device could not join {group}, to which another of your devices invites it."),
            NOBODY,
            "Connect with that other device, so that it invites this one again.",
        ),
        Step::ReadKeys => three(
            format!("Keys for older parts of {group} that a member gave cannot be read."),
            probably(who),
            "Stay connected: other members are asked. If it happens again, ask that person.",
        ),
    }
}

fn record(fault: &str, place: &str, who: Option<&str>) -> Three {
    match fault {
        "found.protocol" => three(
            format!("The service said something about {place} that makes no sense."),
            "The service.",
            ASK_OPERATOR,
        ),
        "found.open" | "found.commitment" | "found.content" | "found.replica" | "found.other" => {
            three(
                format!("A change in {place} cannot be used, and was left out."),
                probably(who),
                "Ask that person whether they know of it. If it happens again, an admin can remove them.",
            )
        }
        "found.cost" => three(
            format!(
                "A change in {place} would have taken every member too much work, and was left out for all."
            ),
            "Nobody need be: what others wrote at the same time can make a change so large.",
            "There is nothing to do: where it was written, it is kept, and written in again in smaller steps. If it happens again and again, tell an admin.",
        ),
        "found.role" | "found.not_member" | "found.instance_closed" => three(
            format!(
                "A change in {place} came from somebody who was not allowed to write it, and was left out."
            ),
            probably(who),
            "Tell an admin of the group, and the operator of the service, who should not have let it pass.",
        ),
        _ => three(
            format!("A change in {place} breaks the rules, and was left out."),
            probably(who),
            "Tell an admin of the group. If it happens again, an admin can remove that person.",
        ),
    }
}

fn other(kind: &FindingKind, place: &str, group: &str, who: Option<&str>) -> Three {
    match kind {
        // Answered by functions of their own.
        FindingKind::Failed { .. } | FindingKind::Record { .. } => {
            three(String::new(), NOBODY, NOTHING)
        }
        FindingKind::Ahead { missing, seen } => ahead(*missing, *seen, place),
        FindingKind::OwnClock {
            ahead_ms,
            holds_back,
        } => own_clock(*ahead_ms, *holds_back),
        FindingKind::Apart => three(
            format!(
                "The service shows another state of {place} than this device has seen there: both went on, each in another way."
            ),
            UNKNOWN,
            "Ask the operator of the service whether a backup was put back. What is here stays here; what you write is kept, and not sent there for now.",
        ),
        FindingKind::OtherHistory => three(
            format!("Somebody who has {place} open has seen another history of it than this device."),
            "Either the service shows its members different histories, or changes what passes through it, or a member's device does not tell the truth.".to_owned(),
            "Compare with the others in person what the document says, and ask the operator of the service whether a backup was put back.",
        ),
        FindingKind::Returning { .. }
        | FindingKind::Parted
        | FindingKind::CannotMerge
        | FindingKind::NotReturned { .. }
        | FindingKind::Collecting
        | FindingKind::Merging { .. }
        | FindingKind::LossDeclared { .. }
        | FindingKind::Contradicted
        | FindingKind::Replaced { .. }
        | FindingKind::PutBackOften
        | FindingKind::Withheld
        | FindingKind::ParallelGeneration
        | FindingKind::BadGeneration
        | FindingKind::BadHead => of_history(kind, place),
        FindingKind::BadWelcome
        | FindingKind::BadWrap
        | FindingKind::ForeignKeyPackage
        | FindingKind::OldGroupInfo
        | FindingKind::BadGroupInfo => of_service(kind, group, who),
        FindingKind::DocumentLost
        | FindingKind::NotCarriedOver
        | FindingKind::AsideNotCarriedOver
        | FindingKind::SetAside { .. }
        | FindingKind::OwnEditRewritten
        | FindingKind::EditsRefused { .. }
        | FindingKind::EditsParked { .. }
        | FindingKind::EditsWait
        | FindingKind::EditsTooCostly
        | FindingKind::DraftsWait
        | FindingKind::DraftsBarred
        | FindingKind::CarriedWaits
        | FindingKind::Rescued { .. }
        | FindingKind::RescueFull => of_document(kind, place, group, who),
        FindingKind::FalseSnapshot { .. }
        | FindingKind::FalseVerdict { .. }
        | FindingKind::SnapshotsUnchecked { .. }
        | FindingKind::SnapshotWithheld { .. }
        | FindingKind::PassedOver { .. }
        | FindingKind::NewerProgram
        | FindingKind::EngineDiffers
        | FindingKind::BaseDisputed => of_snapshot(kind, place, who),
        FindingKind::Dropped { codes } => three(
            format!(
                "There were more findings than this device keeps: {} older ones were dropped.",
                codes.values().sum::<u64>()
            ),
            NOBODY,
            "Look at those that are here, and dismiss what is settled.",
        ),
        kind => of_group(kind, group, who),
    }
}

fn of_snapshot(kind: &FindingKind, place: &str, who: Option<&str>) -> Three {
    match kind {
        FindingKind::FalseSnapshot { .. } => three(
            format!(
                "A short form of {place}, from which newcomers open it, does not hold what was written there. This device does not use it."
            ),
            probably(who),
            "Ask that person. The next short form that this device or another honest one makes puts it right; an admin can remove whoever does it again.",
        ),
        FindingKind::FalseVerdict { .. } => three(
            format!(
                "A member said something untrue about a short form of {place}. This device has compared it itself, and does not believe that person in this document any more."
            ),
            probably(who),
            "Ask that person. If it happens again, an admin should remove them.",
        ),
        FindingKind::SnapshotsUnchecked { .. } => three(
            format!(
                "Somebody made so many short forms of {place} in a short time that this device could not compare all of them. What it did not compare may be false."
            ),
            probably(who),
            "Ask that person; an admin can remove whoever does it again. Whoever opened the document since should look at `conclave doc status` for on whose word it rests.",
        ),
        FindingKind::SnapshotWithheld { .. } => three(
            format!(
                "The service does not give out something of {place} that it has to keep: a short form, or what was written before one. This device cannot compare it."
            ),
            UNKNOWN,
            "Ask whoever runs the service. Whoever opened the document in the last days should look at `conclave doc status` for on whose word it rests.",
        ),
        FindingKind::PassedOver { from, to } => three(
            format!(
                "This device had followed {place} from its beginning, and the service did not give it the changes number {from} to {} of its log. From there it rests on a short form that somebody else made: this device cannot compare that.",
                to.saturating_sub(1)
            ),
            "The service, unless it has let go of them, as it may of what is older than 30 days.",
            "See `conclave doc status` for on whose word the document rests now. Old keys stay here until two people say that it is right who may write, one of them an admin: ask an admin who has the document open to let their device compare it. If the document lacks something, or has what nobody wrote, compare it with theirs.",
        ),
        FindingKind::NewerProgram => three(
            format!(
                "Somebody uses another version of this program in {place}: a short form of it, or what is said of one, cannot be read here. This device does not compare it, and goes on with what it has."
            ),
            "Nobody.",
            "Update this program. Until then others compare the short forms.",
        ),
        FindingKind::EngineDiffers => three(
            format!(
                "This device reads {place} otherwise than two other people do, and nobody agrees with it."
            ),
            "Probably this device or its program.",
            "Compare the document with another member. Update the program, and tell whoever maintains it. Until then this device makes nothing in their place.",
        ),
        _ => three(
            format!(
                "Members disagree about the short form from which this device opened {place}: older text in it may be false."
            ),
            match who {
                Some(who) => format!("Either {who}, who made it, or those who object to it."),
                None => NOBODY.to_owned(),
            },
            "See `conclave doc status` for who says what, and ask somebody whom you trust. The next short form by one who objects is taken over by itself.",
        ),
    }
}

fn of_group(kind: &FindingKind, group: &str, who: Option<&str>) -> Three {
    match kind {
        FindingKind::IllegalEntry { .. } => three(
            format!("{group} was changed against its rules. This device goes on reading it, and sends nothing there any more."),
            probably(who),
            "Keep the store. Talk to the other members; an admin can found the group anew with `conclave group restart`.",
        ),
        FindingKind::NeedsUpgrade { minimum } => three(
            format!("{group} needs a newer version of this program (one that speaks version {minimum}). This device goes on reading what it has, and takes and sends nothing there until then."),
            match who {
                Some(who) => format!("Demanded by {who}, an owner."),
                None => NOBODY.to_owned(),
            },
            "Update this program and start it again: the group goes on by itself.",
        ),
        FindingKind::CreationRefused { .. } => three(
            format!("The service does not take {group}, which was made here. It stays on this device only."),
            probably(who),
            "Ask the operator of the service why, and look at the clocks of this device and of the service.",
        ),
        FindingKind::Undecryptable => three(
            format!("A change to {group} cannot be followed on this device. It comes back into the group by itself."),
            probably(who),
            "Stay connected. If the same person is named again and again, an admin should remove them.",
        ),
        FindingKind::ReAdded => three(
            format!("This device was added to {group} again, and waits for the invitation."),
            NOBODY,
            NOTHING,
        ),
        FindingKind::LogBeginsLater => three(
            format!("The service had lost {group}, and took it up again from a member who was further on than this device, which comes back into it. Until then edits are kept here."),
            "Nobody, if the operator set the service up anew.",
            "Stay connected. Then compare the group's code with another member.",
        ),
        FindingKind::LostPlace { .. } => three(
            format!("This device lost its place in {group}, and comes back by itself. Until then edits are kept here."),
            NOBODY,
            "Stay connected.",
        ),
        FindingKind::ClockWrong { .. } => three(
            format!("This device's clock is wrong: a change to {group} cannot be judged."),
            "This device's clock.",
            "Set the clock of this device. Everything goes on by itself then.",
        ),
        FindingKind::OtherLife { since } => three(
            format!("This home is an older copy of this device, used elsewhere since {}.", date(*since)),
            "Whoever copied the home, or put a copy back.",
            "What is here can be read and edited, and stays here. `conclave device become-new` makes it a device of its own; `conclave device take-over` goes on here and stops the other.",
        ),
        FindingKind::Restored => three(
            "What is stored here is older than what this device has done since: a copy was put back. Its groups are entered anew, then edits are sent.".to_owned(),
            "Whoever put the copy back, or a second copy of this device in use.",
            "Stay connected. Never use two copies of one device at once.",
        ),
        FindingKind::RejoinWanted => three(
            format!("This device comes back into {group}, because you asked for it."),
            NOBODY,
            NOTHING,
        ),
        FindingKind::CannotReturn { .. } => three(
            format!("The service says that this device is no longer a member of {group}. What is here can still be read."),
            NOBODY,
            "Ask a member of the group whether you were removed, and to invite you again if not.",
        ),
        FindingKind::AsksReAdd => three(
            format!("This device cannot come back into {group} by itself, and asks the members to add it again."),
            NOBODY,
            "Ask an admin of the group to add this device again.",
        ),
        FindingKind::MembershipUnknown { .. } => three(
            "This device is a member of a group of which nothing is stored here. Perhaps an older copy of this device was put back.".to_owned(),
            NOBODY,
            "If the group is yours, come back into it with `conclave group rejoin`.",
        ),
        FindingKind::TwoLists { own: true } => three(
            "There are two different lists of your devices under one number.".to_owned(),
            "Probably somebody else has your user key; perhaps a copy of a device was put back.",
            "Look at `conclave device list` where your user key is. Take away what is not yours with `conclave device revoke`, or say of one that it is yours with `conclave device confirm`: either signs the next list, which counts.",
        ),
        FindingKind::ApproveAgain => three(
            "A device that was approved here is not on your list of devices, which went on elsewhere meanwhile.".to_owned(),
            NOBODY,
            "If it is yours and was not taken away, approve it again: `conclave device request` on it, in a new home, and `conclave device approve` here.",
        ),
        FindingKind::TwoLists { own: false } => three(
            match who {
                Some(who) => format!("There are two different lists of the devices of {who} under one number."),
                None => "There are two different lists of somebody's devices under one number.".to_owned(),
            },
            "Probably somebody has got that person's user key; perhaps a copy of a device was put back.",
            "Only devices that both lists name are added until a newer list comes. Ask that person by another way which devices are theirs.",
        ),
        FindingKind::ForeignList => three(
            "Your list of devices was changed by another device that holds your user key, after one that may hold it was taken away.".to_owned(),
            "You on another of your devices, or whoever has the device that was taken away.",
            "Compare `conclave device list`. If it was not you, somebody else has your user key: make a new user (`conclave init` in a new home), have it invited, and tell your contacts to verify it.",
        ),
        FindingKind::UnconfirmedDevice => three(
            "A device came onto your list of devices after one that may hold your user key was taken away. It is added to no group from here.".to_owned(),
            "You on another of your devices, or whoever has the device that was taken away.",
            "Look at `conclave device list`. If the device is yours, `conclave device confirm` says so; if not, take it away with `conclave device revoke`, and make a new user.",
        ),
        FindingKind::RevokedMember => three(
            format!("A device that its user has taken away is still in {group}, and you may not remove it."),
            NOBODY,
            "Ask an admin of the group to connect, or an owner where it is an owner's device: theirs removes it by itself. Where nobody of these is left, make a new group.",
        ),
        FindingKind::Paced { until } => three(
            format!("The service takes only so many changes of one kind from you in {group}: one that this device makes waits until {}.", date(*until)),
            NOBODY,
            "Nothing but to be connected then: it goes on by itself with any command, or while `conclave agent` runs.",
        ),
        FindingKind::NotInvitedAgain => three(
            format!("A member of {group} is not verified here, and was not invited to the group that takes its place."),
            NOBODY,
            "Verify that person, then invite them, or let another member do it.",
        ),
        FindingKind::RootsOverdue { documents } => three(
            match documents {
                1 => format!("1 document of {group} is still protected by keys that are older than the group allows."),
                _ => format!("{documents} documents of {group} are still protected by keys that are older than the group allows."),
            },
            NOBODY,
            "Ask a member who may write to open the group while connected.",
        ),
        FindingKind::RotationUntrue => three(
            "A member said that everything was protected by new keys after a removal, but this is not true of one document.".to_owned(),
            probably(who),
            "This device goes on until it is true. Ask that person if it happens again.",
        ),
        FindingKind::WrongWrap => three(
            format!("A member handed out a wrong key for an older part of {group}. It is not used here."),
            probably(who),
            "Ask that person. If it happens again, an admin should remove them.",
        ),
        _ => three(String::new(), probably(who), NOTHING),
    }
}

fn of_service(kind: &FindingKind, group: &str, who: Option<&str>) -> Three {
    match kind {
        FindingKind::BadWelcome => three(
            "The service delivered an invitation that cannot be read.".to_owned(),
            probably(who),
            "Ask whoever wanted to invite you to do it again.",
        ),
        FindingKind::BadWrap => three(
            format!("The service gave keys for {group} that no member has signed. They are not used."),
            probably(who),
            ASK_OPERATOR,
        ),
        FindingKind::ForeignKeyPackage => three(
            "The service offered, for somebody who was to be added, a key that is not theirs. Nobody was added with it.".to_owned(),
            probably(who),
            "Invite again later. If this stays, do not trust the service, and tell its operator.",
        ),
        FindingKind::OldGroupInfo => three(
            format!("The service offers a way back into an older or another state of {group}. It was refused."),
            probably(who),
            "If the operator put back a backup, tell the operator; otherwise do not trust the service.",
        ),
        _ => three(
            format!("With what the service keeps of {group}, no device that lost its place could come back. It was replaced."),
            probably(who),
            NOTHING,
        ),
    }
}

fn of_document(kind: &FindingKind, place: &str, group: &str, who: Option<&str>) -> Three {
    match kind {
        FindingKind::DocumentLost => three(
            format!("{place} was closed, because nobody can open it any more."),
            match who {
                Some(who) => format!("Closed by {who}."),
                None => NOBODY.to_owned(),
            },
            "If you have a copy of its content, import it as a new document.",
        ),
        FindingKind::NotCarriedOver => three(
            format!(
                "{place} is not on this device, and was not taken along into the group that takes the place of {group}."
            ),
            NOBODY,
            "Let a member who has it export it, and import it into the new group.",
        ),
        FindingKind::AsideNotCarriedOver => three(
            format!(
                "Changes in {place} that nobody can open were not taken along into the group that takes the place of {group}."
            ),
            probably(who),
            NOTHING,
        ),
        FindingKind::SetAside { .. } => three(
            format!(
                "A change in {place} can be opened by nobody who is here. The document goes on without it."
            ),
            probably(who),
            "Wait until a member who can open it connects; or an admin declares it void with `conclave doc void`.",
        ),
        FindingKind::OwnEditRewritten => three(
            format!(
                "Your edits of {place} could not stand as they were, and were written in again."
            ),
            NOBODY,
            "Look whether the document reads as you meant it.",
        ),
        FindingKind::Rescued { changes } => three(
            format!(
                "Unsent changes of yours to {place} have no place any more ({changes} in all)."
            ),
            who.map_or_else(|| NOBODY.to_owned(), |who| format!("It was done by {who}.")),
            "They are kept on this device: `conclave rescue list` shows them.",
        ),
        FindingKind::RescueFull => three(
            format!(
                "Unsent changes of yours to {place} have no place any more, and there is no room to keep them apart."
            ),
            NOBODY,
            "Make room: `conclave rescue list` shows what is kept; apply or discard some of it. Nothing is dropped before that.",
        ),
        FindingKind::EditsWait => three(
            format!(
                "Your last edits of {place} would take every member too much work at once, or make it larger than a document may be. They are kept here and not sent."
            ),
            NOBODY,
            "They go by themselves once that is possible. If this stays, copy what you wrote into a new document, and go on there in smaller steps.",
        ),
        FindingKind::EditsTooCostly => three(
            format!(
                "Your last edits of {place} are too much work for every member to be sent as one change, and this device finds no way to send them in parts. They are kept and shown here, and are never sent as they are; what you write after them waits behind them."
            ),
            NOBODY,
            "Take out of the document what you put in at once, and put it in again in smaller steps while the service is reached; or copy what you wrote into a new document, and go on there.",
        ),
        FindingKind::DraftsWait => three(
            format!(
                "What you write in {place} stays on this device, since the document or the device is paused; it has waited a week, or is 16 MiB or more by now. Nobody else has it, and at 64 MiB no more is taken."
            ),
            NOBODY,
            "Resume it: `conclave doc resume`, or `conclave device resume` where the whole device is paused. What others wrote meanwhile comes in first, then yours is sent.",
        ),
        FindingKind::DraftsBarred => three(
            format!(
                "What you wrote in {place} while it was paused can go to nobody any more: your role does not let you write there now, or the document was put away. It stays on this device."
            ),
            NOBODY,
            "Ask an admin if that was a mistake: while it is paused nothing is lost. Otherwise resume it with `conclave doc resume`, or `conclave device resume` where the whole device is paused: what you wrote is then kept apart, and `conclave rescue list` shows it.",
        ),
        FindingKind::CarriedWaits => three(
            format!(
                "Some changes to {place} that the service has lost would take every member too much work at once if this device brought them back now. They are kept and shown here."
            ),
            NOBODY,
            "They go by themselves as you write on in the document, or when another member brings them back.",
        ),
        FindingKind::EditsRefused { .. } => three(
            format!("Your edits of {place} were refused once, and are being sent again."),
            NOBODY,
            "There is nothing to do, unless this happens again and again: then tell the operator of the service.",
        ),
        _ => three(
            format!("The service does not take your edits of {place}. They are kept here."),
            probably(who),
            "Look whether you may still write in the group; ask an admin.",
        ),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use conclave_proto::{DeviceId, GroupId, UserId};

    use super::*;
    use crate::finding::Cause;
    use crate::plain::protocol_word;

    const STEPS: [Step; 19] = [
        Step::MakeDirectory,
        Step::Title,
        Step::CarryOver,
        Step::LoadGroup,
        Step::LoadMembership,
        Step::LoadDocument,
        Step::Follow,
        Step::TakeBack,
        Step::Return,
        Step::ChangeGroup,
        Step::OpenDocument,
        Step::ReadDocument,
        Step::SendEdits,
        Step::PublishDocument,
        Step::Condense,
        Step::CheckCondensed,
        Step::DeviceList,
        Step::JoinOwn,
        Step::ReadKeys,
    ];
    const FAULTS: [&str; 21] = [
        "found.protocol",
        "found.malformed",
        "found.wrong_document",
        "found.epoch_decreased",
        "found.bad_signature",
        "found.seen_head",
        "found.prev",
        "found.replayed",
        "found.gap",
        "found.role",
        "found.not_member",
        "found.instance_closed",
        "found.commitment",
        "found.open",
        "found.parent",
        "found.covered",
        "found.equivocation",
        "found.replica",
        "found.content",
        "found.cost",
        "found.other",
    ];

    fn cause() -> Cause {
        Cause {
            code: "x.y".to_owned(),
            detail: "epoch 3".to_owned(),
        }
    }

    /// One of each kind but the two first, which have lists of their own.
    fn next(kind: &FindingKind) -> Option<FindingKind> {
        use FindingKind as K;
        Some(match kind {
            K::Failed { .. } => K::Record {
                fault: "found.protocol".to_owned(),
                seq: 2,
            },
            K::Record { .. } => K::IllegalEntry { cause: cause() },
            K::IllegalEntry { .. } => K::NeedsUpgrade { minimum: 77 },
            K::NeedsUpgrade { .. } => K::CreationRefused { cause: cause() },
            K::CreationRefused { .. } => K::Undecryptable,
            K::Undecryptable => K::ReAdded,
            K::ReAdded => K::LogBeginsLater,
            K::LogBeginsLater => K::LostPlace { cause: cause() },
            K::LostPlace { .. } => K::ClockWrong { cause: cause() },
            K::ClockWrong { .. } => K::OwnClock {
                ahead_ms: -3_000_000,
                holds_back: true,
            },
            K::OwnClock { .. } => K::OtherLife {
                since: conclave_proto::UnixMs(1_795_874_520_000),
            },
            K::OtherLife { .. } => K::Restored,
            K::Restored => K::RejoinWanted,
            K::RejoinWanted => K::CannotReturn { cause: None },
            K::CannotReturn { .. } => K::AsksReAdd,
            K::AsksReAdd => K::MembershipUnknown { invited: true },
            K::MembershipUnknown { .. } => K::TwoLists { own: false },
            K::TwoLists { own: false } => K::TwoLists { own: true },
            K::TwoLists { own: true } => K::ApproveAgain,
            K::ApproveAgain => K::ForeignList,
            K::ForeignList => K::UnconfirmedDevice,
            K::UnconfirmedDevice => K::RevokedMember,
            K::RevokedMember => K::Paced {
                until: conclave_proto::UnixMs(1_795_874_520_000),
            },
            K::Paced { .. } => K::NotInvitedAgain,
            K::NotInvitedAgain => K::RootsOverdue { documents: 3 },
            K::RootsOverdue { .. } => K::RotationUntrue,
            K::RotationUntrue => K::WrongWrap,
            K::WrongWrap => K::BadGroupInfo,
            K::BadGroupInfo => K::Ahead {
                missing: 41,
                seen: conclave_proto::UnixMs(1_795_874_520_000),
            },
            K::Ahead { .. } => K::Apart,
            K::Apart => K::OtherHistory,
            K::OtherHistory => K::Parted,
            K::Parted => K::CannotMerge,
            K::CannotMerge => K::Returning { missing: 41 },
            K::Returning { .. } => K::NotReturned { cause: cause() },
            K::NotReturned { .. } => K::Collecting,
            K::Collecting => K::Merging { missing: 41 },
            K::Merging { .. } => K::LossDeclared { lost: 2 },
            K::LossDeclared { .. } => K::Contradicted,
            K::Contradicted => K::Replaced {
                key: [0x3f; 32],
                before: [0x91; 32],
            },
            K::Replaced { .. } => K::Withheld,
            K::Withheld => K::ParallelGeneration,
            K::ParallelGeneration => K::PutBackOften,
            K::PutBackOften => K::BadGeneration,
            K::BadGeneration => K::BadHead,
            K::BadHead => K::BadWelcome,
            K::BadWelcome => K::BadWrap,
            K::BadWrap => K::ForeignKeyPackage,
            K::ForeignKeyPackage => K::OldGroupInfo,
            K::OldGroupInfo => K::DocumentLost,
            K::DocumentLost => K::NotCarriedOver,
            K::NotCarriedOver => K::AsideNotCarriedOver,
            K::AsideNotCarriedOver => K::SetAside { seq: 2 },
            K::SetAside { .. } => K::Held {
                at: At::Elsewhere,
                sessions: 1,
                may_void: true,
            },
            K::Held { .. } => K::FalseSnapshot { seq: 2 },
            K::FalseSnapshot { .. } => K::FalseVerdict { seq: 2 },
            K::FalseVerdict { .. } => K::SnapshotsUnchecked { seq: 2 },
            K::SnapshotsUnchecked { .. } => K::SnapshotWithheld { seq: 2 },
            K::SnapshotWithheld { .. } => K::PassedOver { from: 3, to: 9 },
            K::PassedOver { .. } => K::NewerProgram,
            K::NewerProgram => K::EngineDiffers,
            K::EngineDiffers => K::BaseDisputed,
            K::BaseDisputed => K::OwnEditRewritten,
            K::OwnEditRewritten => K::EditsRefused { cause: cause() },
            K::EditsRefused { .. } => K::EditsParked { cause: cause() },
            K::EditsParked { .. } => K::EditsWait,
            K::EditsWait => K::EditsTooCostly,
            K::EditsTooCostly => K::DraftsWait,
            K::DraftsWait => K::DraftsBarred,
            K::DraftsBarred => K::CarriedWaits,
            K::CarriedWaits => K::Rescued { changes: 2 },
            K::Rescued { .. } => K::RescueFull,
            K::RescueFull => K::Dropped {
                codes: BTreeMap::from([("x.y".to_owned(), 3)]),
            },
            K::Dropped { .. } => return None,
        })
    }

    pub(in crate::finding) fn every() -> Vec<FindingKind> {
        let steps = STEPS.into_iter();
        let mut all: Vec<FindingKind> = steps
            .map(|step| FindingKind::Failed {
                step,
                cause: cause(),
            })
            .collect();
        all.extend(FAULTS.map(|fault| FindingKind::Record {
            fault: fault.to_owned(),
            seq: 2,
        }));
        let mut last = all[0].clone();
        while let Some(kind) = next(&last) {
            all.push(kind.clone());
            last = kind;
        }
        all
    }

    #[test]
    fn every_finding_says_three_things_in_plain_words() {
        let (group, document) = (GroupId([1; 16]), DocumentId([2; 16]));
        let suspects = [
            None,
            Some(Suspect::Service),
            Some(Suspect::Device(DeviceId([3; 16]))),
            Some(Suspect::User(UserId([4; 32]))),
        ];
        let called = Names {
            group: Some("Board".to_owned()),
            document: Some("notes".to_owned()),
            suspect: Some("Ben".to_owned()),
        };
        let nameless = Names::default();
        let mut texts = BTreeSet::new();
        for what in every() {
            for about in [
                About::Device,
                About::Group(group),
                About::Document(group, document),
            ] {
                for (suspect, names) in suspects
                    .iter()
                    .flat_map(|suspect| [(suspect, &called), (suspect, &nameless)])
                {
                    let finding = Finding {
                        what: what.clone(),
                        about,
                        suspect: *suspect,
                    };
                    let words = finding.words(names);
                    for text in [&words.happened, &words.fault, &words.remedy] {
                        let whole = text.chars().next().is_some_and(|c| !c.is_lowercase());
                        assert!(whole && text.ends_with('.'), "{what:?}: {text}");
                        assert_eq!(protocol_word(text), None, "{what:?}: {text}");
                    }
                    texts.insert(words.happened);
                }
            }
        }
        assert!(texts.len() > 60, "{}", texts.len());
    }

    #[test]
    fn people_and_things_are_called_by_their_names() {
        let finding = Finding {
            what: FindingKind::SetAside { seq: 2 },
            about: About::Document(GroupId([1; 16]), DocumentId([2; 16])),
            suspect: Some(Suspect::Device(DeviceId([3; 16]))),
        };
        let names = Names {
            group: None,
            document: Some("no\u{1b}[31mtes".to_owned()),
            suspect: Some("Ben".to_owned()),
        };
        let text = finding.words(&names).text();
        assert!(text.contains("“no[31mtes”"), "{text}");
        assert!(text.contains("“Ben” (device 03030303)"), "{text}");
        let text = finding.words(&Names::default()).text();
        assert!(text.contains("not among your contacts"), "{text}");
    }

    #[test]
    fn what_is_missing_at_the_service_is_said_with_its_time() {
        let finding = |missing, seen| Finding {
            what: FindingKind::Ahead {
                missing,
                seen: UnixMs(seen),
            },
            about: About::Document(GroupId([1; 16]), DocumentId([2; 16])),
            suspect: None,
        };
        let names = Names {
            document: Some("notes".to_owned()),
            ..Names::default()
        };
        assert_eq!(
            finding(41, 1_795_874_520_000).words(&names).happened,
            "The service shows an older state of “notes” than on 28 Nov 2026 14:02 UTC: 41 changes are missing there, none here."
        );
        assert_eq!(
            finding(1, 0).words(&names).happened,
            "The service shows an older state of “notes” than before: 1 change is missing there, none here."
        );
    }

    #[test]
    fn a_wrong_clock_is_said_with_its_offset() {
        let happened = |ahead_ms, holds_back| {
            let what = FindingKind::OwnClock {
                ahead_ms,
                holds_back,
            };
            let (about, suspect) = (About::Device, None);
            let finding = Finding {
                what,
                about,
                suspect,
            };
            finding.words(&Names::default()).happened
        };
        assert_eq!(
            happened(11_520_000, false),
            "This device's clock is 3 h 12 min fast, compared with the service's."
        );
        assert_eq!(
            happened(-172_800_000, true),
            "This device's clock is 2 days slow, compared with the service's. Until it is set, new groups and changes of members wait here; edits go on."
        );
    }

    #[test]
    fn dates_are_right() {
        use crate::finding::date;
        assert_eq!(date(UnixMs(0)), "1 Jan 1970 00:00 UTC");
        assert_eq!(date(UnixMs(951_782_400_000)), "29 Feb 2000 00:00 UTC");
        assert_eq!(date(UnixMs(1_795_874_520_000)), "28 Nov 2026 14:02 UTC");
    }

    #[test]
    fn the_document_of_names_is_called_by_what_it_is() {
        let group = GroupId([1; 16]);
        let finding = Finding {
            what: FindingKind::Returning { missing: 1 },
            about: About::Document(group, DocumentId::directory(&group)),
            suspect: None,
        };
        let names = Names {
            group: Some("Board".to_owned()),
            ..Names::default()
        };
        let happened = words(&finding, &names).happened;
        assert!(happened.contains("the names in “Board”"), "{happened}");
    }
}
