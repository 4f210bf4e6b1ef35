use conclave_engine::{CommandId, Engine, Output, Setup, Told, WriteBatch};
use conclave_proto::frame::{ClientFrame, ServiceFrame};
use conclave_proto::{RealmId, Refusal, codec};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::link::BACKLOG_BYTES;
use super::*;
use crate::events::Event;
use crate::store::{PassphraseCost, StoreError};
use crate::transport::{Sender, Timing};
use crate::trouble::Trouble;

async fn actor(folder: &TempDir) -> (Actor, mpsc::Sender<Call>) {
    let setup = Setup::NewUser {
        name: "Ana".to_owned(),
        realm: RealmId::ZERO,
    };
    let (engine, output) = Engine::init(setup, [7; 32], now().wall).unwrap();
    let passphrase = Zeroizing::new("right".to_owned());
    let unlock = Unlock::Passphrase {
        passphrase,
        cost: PassphraseCost::insecure_for_tests(),
    };
    let store = Store::create(folder.path(), &unlock, &output.writes)
        .await
        .unwrap();
    let link = Link::new(None, Timing::default(), None);
    let (calls, waiting) = mpsc::channel(CALLS);
    let shell = Shell::new(engine, Output::default());
    let actor = Actor::new(shell, store, link, waiting, Arc::new(Shared::new()));
    (actor, calls)
}

fn down() -> Wire {
    Wire::Down {
        cause: Trouble::Lost { why: String::new() },
        pause: Duration::ZERO,
    }
}

fn write(actor: &mut Actor) {
    let mut writes = WriteBatch::default();
    writes.put(b"test".to_vec(), Zeroizing::new(b"value".to_vec()));
    actor.shell.keep(Output {
        writes,
        ..Output::default()
    });
}

/// As if a transition had wanted this sent and told.
fn want(actor: &mut Actor, sends: Vec<ClientFrame>, told: Vec<Told>) {
    actor.shell.keep(Output {
        sends,
        told,
        wake_at: actor.shell.wake_at(),
        ..Output::default()
    });
}

/// The promise: what is not durable is neither sent nor told, and everybody who waits hears why.
#[tokio::test]
async fn when_the_store_fails_nothing_is_sent_or_told() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let mut events = actor.shared.events.subscribe();
    let (sender, mut sent) = Sender::for_tests();
    actor.link.sender = Some(sender);
    let (reply, answer) = oneshot::channel();
    actor.replies.insert(CommandId(1), reply);
    write(&mut actor);
    let answered = Told::Reply {
        command: CommandId(1),
        result: Ok(Reply::Done),
    };
    want(
        &mut actor,
        vec![ClientFrame::Ping],
        vec![Told::Event(DeviceEvent::Online), answered],
    );
    actor.store.refuse_writes().await;

    let error = actor.run().await.unwrap_err();
    assert!(
        matches!(&error, Error::Store(error) if matches!(**error, StoreError::Database(_))),
        "{error:?}"
    );
    assert!(sent.try_recv().is_none() && actor.link.backlog.is_empty());
    let shared = Arc::clone(&actor.shared);
    let ended = thread::stop(actor, Err(error)).await;
    assert!(matches!(ended, Err(Error::Store(_))));
    assert!(matches!(answer.await.unwrap(), Err(Error::Store(_))));
    assert!(matches!(shared.cause(), Error::Store(_)));
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn what_is_durable_is_sent_then_told() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let mut events = actor.shared.events.subscribe();
    let (sender, mut sent) = Sender::for_tests();
    actor.link.sender = Some(sender);
    write(&mut actor);
    want(
        &mut actor,
        vec![ClientFrame::Ping],
        vec![Told::Event(DeviceEvent::Online)],
    );
    actor.shared.close.cancel();
    // Nobody takes the connection down here: the farewell must not wait for it for ever.
    actor.run().await.unwrap();
    assert_eq!(sent.recv().await, Some(codec::encode(&ClientFrame::Ping)));
    assert!(matches!(
        events.try_recv(),
        Ok(Event::Device(DeviceEvent::Online))
    ));
    assert_eq!(actor.store.read(b"test").await.unwrap().len(), 1);
}

/// A frame that was made for one connection would be nonsense, before the login, on the next.
#[tokio::test]
async fn frames_do_not_cross_over_to_the_next_connection() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let (first, _first_sent) = Sender::for_tests();
    let (second, _second_sent) = Sender::for_tests();
    actor.wire(Wire::Up(first));
    assert!(matches!(
        actor.shell.unreleased().sends.as_slice(),
        [ClientFrame::Hello { .. }]
    ));
    want(&mut actor, vec![ClientFrame::Ping], Vec::new());
    actor.link.queue(&ClientFrame::Ping);
    actor.wire(down());
    actor.wire(Wire::Up(second));
    assert!(matches!(
        actor.shell.unreleased().sends.as_slice(),
        [ClientFrame::Hello { .. }]
    ));
    actor.release().await.unwrap();
    assert_eq!(actor.link.backlog.len(), 1);
}

/// After the engine has given a connection up, nothing more of it reaches the engine but its end.
#[tokio::test]
async fn a_connection_that_was_given_up_is_not_listened_to() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let (sender, sent) = Sender::for_tests();
    actor.wire(Wire::Up(sender));
    let goodbye = ServiceFrame::Goodbye {
        why: Refusal::ShuttingDown,
        retry_after_ms: 1,
    };
    actor.transition(Input::Frame(Box::new(goodbye)));
    actor.release().await.unwrap();
    assert!(actor.link.deaf && actor.link.sender.is_none() && sent.is_closed());
    let challenge = ServiceFrame::Challenge {
        version: 1,
        nonce: [0; 32],
        service_key: [0; 32],
        now: now().wall,
        generation: conclave_testkit::service::Signing::default().generation(),
    };
    actor.wire(Wire::Frame(crate::transport::Received::for_tests(
        challenge,
    )));
    assert!(actor.shell.unreleased().sends.is_empty());
    actor.wire(down());
    assert!(!actor.link.deaf);
}

#[tokio::test]
async fn too_long_a_backlog_stops_further_input() {
    let folder = TempDir::new().unwrap();
    let (mut actor, calls) = actor(&folder).await;
    let (sender, mut sent) = Sender::for_tests();
    actor.link.sender = Some(sender);
    let large = ClientFrame::Hello {
        versions: vec![],
        credential: vec![0; BACKLOG_BYTES].into(),
    };
    actor.link.queue(&large);
    assert!(actor.link.is_choked());
    let (reply, _answer) = oneshot::channel();
    calls
        .send(Call::Command {
            command: Command::Status,
            reply,
        })
        .await
        .unwrap();
    actor.gather().await.unwrap();
    assert!(actor.replies.is_empty() && actor.shell.unreleased().told.is_empty());
    // The only thing that can happen is that the socket takes some.
    assert!(matches!(actor.wait().await, Happened::Sent));
    assert!(!actor.link.is_choked() && sent.try_recv().is_some());
    actor.gather().await.unwrap();
    assert_eq!(actor.shell.unreleased().told.len(), 1);
}

#[tokio::test]
async fn a_command_that_nobody_waits_for_is_not_begun() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let (reply, answer) = oneshot::channel();
    drop(answer);
    actor.command(Command::Status, reply);
    assert!(actor.shell.unreleased().told.is_empty() && actor.replies.is_empty());
}

/// One turn of the loop after another, until the answer is there.
async fn ask(actor: &mut Actor, command: Command) -> Result<Reply, Error> {
    let (reply, mut answer) = oneshot::channel();
    actor.command(command, reply);
    loop {
        actor.release_or_stall().await.unwrap();
        match answer.try_recv() {
            Ok(result) => return result,
            Err(oneshot::error::TryRecvError::Closed) => panic!("nobody answers"),
            Err(oneshot::error::TryRecvError::Empty) => {}
        }
        let loaded = actor.shell.load(now(), &mut actor.store).await;
        if !loaded.unwrap() {
            actor.lend();
            let came = actor.pool.next().await;
            actor.take(Happened::Lent(came)).await.unwrap();
        }
    }
}

fn new_group() -> Command {
    Command::CreateGroup {
        name: "Board".to_owned(),
        policy: Box::default(),
    }
}

async fn groups(actor: &mut Actor) -> usize {
    match ask(actor, Command::Groups).await {
        Ok(Reply::Groups(groups)) => groups.len(),
        other => panic!("{other:?}"),
    }
}

/// The engine must not go on with what the store does not have, and nothing of it may leave.
#[tokio::test]
async fn without_room_everything_that_is_not_durable_is_undone() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    ask(&mut actor, new_group()).await.unwrap();
    let mut events = actor.shared.events.subscribe();
    let (sender, mut sent) = Sender::for_tests();
    actor.link.sender = Some(sender);
    actor.store.limit_bytes(Some(1)).await.unwrap();
    for failures in 1..=3 {
        want(
            &mut actor,
            vec![ClientFrame::Ping],
            vec![Told::Event(DeviceEvent::Online)],
        );
        let error = ask(&mut actor, new_group()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Store(error) if matches!(**error, StoreError::Full)),
            "{error:?}"
        );
        assert!(sent.try_recv().is_none() && actor.link.backlog.is_empty());
        assert!(actor.link.sender.is_none() && actor.link.deaf);
        assert!(matches!(events.try_recv(), Ok(Event::Stalled { .. })));
        if failures == 1 {
            assert!(matches!(
                events.try_recv(),
                Ok(Event::Device(DeviceEvent::Offline))
            ));
        }
        assert!(events.try_recv().is_err());
        // Nothing is done by itself for a while, and each time for longer.
        assert!(!actor.stall.is_over() && actor.stall.failures() == failures);
        assert_eq!(groups(&mut actor).await, 1);
    }
    actor.store.limit_bytes(None).await.unwrap();
    ask(&mut actor, new_group()).await.unwrap();
    assert!(actor.stall.is_over());
    assert_eq!(groups(&mut actor).await, 2);
    let (_, output) = thread::load(&mut actor.store).await.unwrap();
    drop(output);
    assert_eq!(groups(&mut actor).await, 2);
}

/// What arrives while there is no room waits in the socket.
#[tokio::test]
async fn without_room_only_calls_are_heard() {
    let folder = TempDir::new().unwrap();
    let (mut actor, calls) = actor(&folder).await;
    actor.store.limit_bytes(Some(1)).await.unwrap();
    ask(&mut actor, new_group()).await.unwrap_err();
    assert!(!actor.stall.is_over());
    let (reply, answer) = oneshot::channel();
    let call = Call::Command {
        command: Command::Status,
        reply,
    };
    actor.gather().await.unwrap();
    calls.send(call).await.unwrap();
    let happened = actor.wait().await;
    assert!(matches!(happened, Happened::Call(Some(_))));
    actor.take(happened).await.unwrap();
    // Somebody asks: it is tried again.
    assert!(actor.stall.is_over());
    actor.release_or_stall().await.unwrap();
    assert!(matches!(answer.await.unwrap(), Ok(Reply::Status(_))));
}

/// Nothing of it is stored, so nothing brings it back but whoever made the engine anew.
#[tokio::test]
async fn without_room_what_is_wanted_of_presence_stays() {
    let folder = TempDir::new().unwrap();
    let (mut actor, _calls) = actor(&folder).await;
    let Ok(Reply::Group(group)) = ask(&mut actor, new_group()).await else {
        panic!("no group");
    };
    let document = DocumentId::directory(&group);
    let watch = Command::WatchPresence {
        group,
        document,
        whose: conclave_engine::AttendeeId(1),
        watch: true,
    };
    ask(&mut actor, watch).await.unwrap();
    actor.store.limit_bytes(Some(1)).await.unwrap();
    for _ in 0..2 {
        ask(&mut actor, new_group()).await.unwrap_err();
    }
    assert!(!actor.shell.take_attendance().is_empty());
}
