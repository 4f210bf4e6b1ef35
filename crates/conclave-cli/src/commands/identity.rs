//! `init`, `whoami`, `verify`, `contacts`.

use clap::{Args, Subcommand};
use conclave_client::naming::meant;
use conclave_client::proto::RealmId;
use conclave_client::{Operation, Outcome, PinInfo, Setup, WhoAmI as Who};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::args::Global;
use crate::context::{Context, answer};
use crate::failure::{Exit, Failure, Result};
use crate::output::{Shown, asked, can_ask, columns, note};
use crate::target::Target;

/// Realm of users made here: statements signed for one realm are worthless in another.
pub const REALM: RealmId = RealmId::ZERO;

/// Options of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// What to call yourself (with --device: the device); others see it in contact texts, the service never does
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Make this a further device of an existing user, who approves it on another device
    #[arg(long)]
    device: bool,
}

/// Options of `whoami`.
#[derive(Debug, Args)]
pub struct WhoAmI {
    /// Also draw the contact text as a QR code
    #[arg(long)]
    qr: bool,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// Contact text, from `conclave whoami` on their device
    #[arg(value_name = "CONTACT-TEXT")]
    contact: String,
    /// What to call them here, instead of what they call themselves
    #[arg(long)]
    name: Option<String>,
    /// You compared the safety number with the person, face to face or by voice
    #[arg(long)]
    compared: bool,
    /// The safety number that they see, or its last 10 digits: they are verified if it is the one that is seen here
    #[arg(long, value_name = "DIGITS", conflicts_with = "compared")]
    number: Option<String>,
}

/// Digits of a safety number that are typed at least. Whoever is in between can try, but not so often that these come out right by chance
/// and the person notices nothing.
const TYPED_DIGITS: usize = 10;

/// What is done with a contact.
#[derive(Debug, Subcommand)]
pub enum Contacts {
    /// Call a contact otherwise, on this device
    Rename {
        /// The contact
        user: String,
        /// The new name
        name: String,
    },
    /// Forget a contact: they stay in your groups, and are not invited from here any more
    Remove {
        /// The contact
        user: String,
    },
}

/// Creates this device's store.
///
/// # Errors
/// [`Failure`].
pub async fn init(global: &Global, args: Init) -> Result<Shown> {
    let name = name(&args)?;
    let setup = match args.device {
        false => Setup::NewUser { name, realm: REALM },
        true => Setup::NewDevice { name, realm: REALM },
    };
    let context = Context::create(global, setup).await?;
    let who = answer!(context.run(Operation::WhoAmI).await?, Outcome::WhoAmI(who) => who)?;
    let mut shown = match args.device {
        false => shown_user(&who, "created"),
        true => {
            let outcome = context.run(Operation::DeviceRequest).await?;
            let request = answer!(outcome, Outcome::Request(request) => request)?;
            let text = format!(
                "created device {}\n\nApprove it on another of your devices:\n  conclave device approve {}\nand type in there the code of this device:\n  {}\n\nthen finish here with the text it prints:\n  conclave device finish TEXT",
                who.device, request.text, request.code
            );
            Shown::new(text, "device", who.device)
                .with("request", request.text)
                .with("code", request.code)
        }
    };
    if context.home.server(global)?.is_none() {
        crate::output::note(
            "note: no service is set yet; give --server URL once, with any command",
            global.json,
        );
    } else if global.offline && global.server.is_some() {
        crate::output::note(
            "note: the address is not remembered, since nobody asked there; give --server again with a command that connects",
            global.json,
        );
    } else {
        // The first connection publishes what others need to invite this user.
        let reached = context.connect().await?;
        shown = shown.with("online", !reached.is_queued());
        if !(args.device && context.waits_for_approval()) {
            let before =
                "this device is set up, and the address is not remembered until it answers; ";
            context.note_stale_and(reached, before);
        }
    }
    shown = shown.with("home", context.home.folder());
    let shown = context.finish(Ok(shown)).await?;
    context.close().await?;
    Ok(shown)
}

fn name(args: &Init) -> Result<String> {
    if let Some(name) = &args.name {
        return Ok(name.trim().to_owned());
    }
    if args.device {
        return Ok("device".to_owned());
    }
    if !can_ask() {
        return Err(Failure::usage(
            "a new user needs a name",
            "give one with --name NAME",
        ));
    }
    let line = asked("Your name, as others shall see it: ").map_err(|error| {
        Failure::usage(
            format!("the name could not be read: {error}"),
            "give it with --name NAME",
        )
    })?;
    Ok(line.trim().to_owned())
}

/// Shows this device's user.
///
/// # Errors
/// [`Failure`].
pub async fn whoami(context: &Context, args: &WhoAmI) -> Result<Shown> {
    let who = answer!(context.run(Operation::WhoAmI).await?, Outcome::WhoAmI(who) => who)?;
    let shown = shown_user(&who, "you are");
    Ok(
        match who
            .contact
            .as_ref()
            .filter(|_| args.qr && !context.global.json)
        {
            Some(contact) => Shown::new(
                format!("{}\n\n{}", user_text(&who, "you are"), qr(contact)?),
                "user",
                who.user,
            ),
            None => shown,
        },
    )
}

fn user_text(who: &Who, verb: &str) -> String {
    let mut rows = vec![vec![verb.to_owned(), who.name.clone()]];
    if let Some(user) = &who.user {
        rows.push(vec!["user".to_owned(), user.to_string()]);
    }
    rows.push(vec!["device".to_owned(), who.device.to_string()]);
    let more = match &who.contact {
        Some(contact) => format!("Give this contact text to others; it holds no secret:\n{contact}"),
        None => "This device is not enrolled yet: `conclave device request` shows what to approve elsewhere.".to_owned(),
    };
    format!("{}\n\n{more}", columns(&rows))
}

fn shown_user(who: &Who, verb: &str) -> Shown {
    Shown::new(user_text(who, verb), "user", who.user)
        .with("device", who.device)
        .with("name", &who.name)
        .with("contact", &who.contact)
        .with("enrolled", who.enrolled)
        .with("approves_devices", who.holds_user_key)
}

/// Draws a text as a QR code.
fn qr(text: &str) -> Result<String> {
    let code = QrCode::new(text.as_bytes());
    let code =
        code.map_err(|_| Failure::usage("the text is too long for a QR code", "use the text"))?;
    Ok(code
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .build())
}

/// Takes a contact as known.
///
/// # Errors
/// [`Failure`].
pub async fn verify(context: &Context, args: Verify) -> Result<Shown> {
    let contact: String = args.contact.split_whitespace().collect();
    let pin = |verified| Operation::Verify {
        contact: contact.clone(),
        name: args.name.clone(),
        verified,
    };
    let mut known = answer!(context.run(pin(args.compared)).await?, Outcome::Contact(pin) => pin)?;
    let compared = match &args.number {
        Some(typed) => check_number(&known, typed).map(|()| true)?,
        None if !known.verified && !context.global.json && can_ask() => is_compared(&known)?,
        None => false,
    };
    if compared {
        known = answer!(context.run(pin(true)).await?, Outcome::Contact(pin) => pin)?;
    }
    let state = match known.verified {
        true => "verified: you compared the number".to_owned(),
        false => "known, not verified: compare this number with theirs (they run `conclave verify` with your text),\nthen run this again with --number and what they see, or with --compared".to_owned(),
    };
    let contacts = context.contacts().await?;
    let id = |pin: &PinInfo| pin.user.to_string();
    if meant(&known.name, &contacts, id, |pin| Some(pin.name.as_str())).len() > 1 {
        let short = known.user.short();
        let text = format!(
            "note: another contact is called so, or almost so: name this one by its id {short}, or call it otherwise with `conclave contacts rename {short} NAME`"
        );
        note(&text, context.global.json);
    }
    let text = format!(
        "{} {}\n  {}\n{state}",
        known.name,
        known.user.short(),
        known.safety_number
    );
    Ok(shown_contact(text, &known))
}

/// Asks for the end of the number that the other one sees: what only has to be confirmed is confirmed unread.
fn is_compared(known: &PinInfo) -> Result<bool> {
    let question = format!(
        "Safety number with {}:\n  {}\nThey see one too. Let them read out the end of theirs, face to face or by voice.\nThe last {TYPED_DIGITS} digits that they see (empty: not now): ",
        known.name, known.safety_number
    );
    match asked(&question) {
        Ok(typed) if !typed.trim().is_empty() => check_number(known, &typed).map(|()| true),
        _ => Ok(false),
    }
}

/// Whether what somebody else sees is the number that is seen here: all of it, or its end.
fn check_number(known: &PinInfo, typed: &str) -> Result<()> {
    let digits = |text: &str| -> String { text.chars().filter(char::is_ascii_digit).collect() };
    let typed = digits(typed);
    if typed.len() < TYPED_DIGITS {
        return Err(Failure::usage(
            format!("that is less than {TYPED_DIGITS} digits"),
            "type the number that they see, or the end of it",
        ));
    }
    if digits(&known.safety_number).ends_with(&typed) {
        return Ok(());
    }
    Err(Failure::new(
        "cli.other_number",
        Exit::NotVerified,
        format!(
            "{} does not see the number that is seen here, or it was mistyped; nothing is verified",
            known.name
        ),
        "let them read it out once more; if it stays different somebody is in between: get their contact text another way",
    ))
}

fn shown_contact(text: String, known: &PinInfo) -> Shown {
    Shown::new(text, "user", known.user)
        .with("name", &known.name)
        .with("verified", known.verified)
        .with("safety_number", &known.safety_number)
}

/// Lists known contacts, renames or forgets one.
///
/// # Errors
/// [`Failure`].
pub async fn contacts(context: &Context, command: Option<Contacts>) -> Result<Shown> {
    match command {
        None => list(context).await,
        Some(Contacts::Rename { user, name }) => {
            let user = context.find_contact(&user).await?;
            let operation = Operation::RenameContact { user, name };
            let known = answer!(context.run(operation).await?, Outcome::Contact(pin) => pin)?;
            let text = format!("contact {} is called {}", user.short(), known.name);
            Ok(shown_contact(text, &known))
        }
        Some(Contacts::Remove { user }) => {
            let user = context.find_contact(&user).await?;
            let known = context.contacts().await?;
            let name = known.iter().find(|pin| pin.user == user);
            let name = name.map(|pin| pin.name.clone()).unwrap_or_default();
            let target = Target::user(&user, &name);
            context.run(Operation::ForgetContact { user }).await?;
            let text = format!("contact {} is forgotten", user.short());
            Ok(Shown::new(text, "user", user).to(target))
        }
    }
}

async fn list(context: &Context) -> Result<Shown> {
    let contacts = context.contacts().await?;
    let row = |pin: &PinInfo| {
        let state = if pin.verified { "verified" } else { "known" };
        vec![
            pin.user.short(),
            pin.name.clone(),
            state.to_owned(),
            pin.safety_number.clone(),
        ]
    };
    let text = match contacts.is_empty() {
        true => "nobody is known yet: `conclave verify CONTACT-TEXT`".to_owned(),
        false => columns(&contacts.iter().map(row).collect::<Vec<_>>()),
    };
    Ok(Shown::new(text, "contacts", contacts))
}
