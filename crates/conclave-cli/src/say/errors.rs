//! Sentences and next steps by error code.

use Sentence::{Fixed, Own};

/// How an error of the libraries is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sentence {
    /// In these words.
    Fixed(&'static str),
    /// As the library says it: those texts are plain already, and name files or limits.
    Own,
}

/// The sentence of a code. None where nobody wrote one: a test fails then.
pub fn sentence(code: &str) -> Option<Sentence> {
    let (family, _) = code.split_once(['.', '_'])?;
    match family {
        "name" | "text" | "store" | "start" => Some(Own),
        "client" => client(code),
        "auth" => auth(code),
        "pin" | "untrusted" => pins(code),
        "engine" | "document" => engine(code),
        "mls" => group(code),
        "evidence" => evidence(code),
        // It names who invites.
        "invitation" => (code == "invitation.group_taken").then_some(Own),
        "doc" | "crdt" => document(code),
        "refused" => refused(code),
        "rescue" => (code == "rescue.full").then_some(Fixed(
            "changes of yours have no place any more, and there is no room to keep them apart; nothing was dropped",
        )),
        "pause" => paused(code),
        "presence" => Some(Own),
        "decode" => Some(Fixed(
            "what arrived is damaged, or made by a newer version of the program",
        )),
        "merkle" => Some(Fixed(
            "what the service says of the history does not add up; nothing of it was taken",
        )),
        _ => None,
    }
}

fn paused(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "pause.full" => {
            "as much as is kept waits here already while the document is paused; nothing of this change was done"
        }
        "pause.on" => "this is paused on this device",
        _ => return None,
    }))
}

fn client(code: &str) -> Option<Sentence> {
    Some(match code {
        "client.endpoint"
        | "client.closed"
        | "client.crashed"
        | "client.no_group"
        | "client.no_document"
        | "client.not_found"
        | "client.ambiguous"
        | "client.unreadable_names"
        | "client.wrong_kind"
        | "client.no_view"
        | "client.group_lost"
        | "client.timed_out"
        | "client.argument"
        | "client.local"
        | "client.local_version"
        | "client.start" => Own,
        "client.unexpected_answer" => {
            Fixed("the program gave itself an answer that makes no sense")
        }
        _ => return None,
    })
}

fn auth(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "auth.unsupported_credential"
        | "auth.unsupported_version"
        | "auth.unsupported_scheme"
        | "auth.unsupported_rotation" => {
            "this proof of who somebody is was made by another version of the program"
        }
        "auth.not_external_sender"
        | "auth.bad_key"
        | "auth.signature"
        | "auth.user_signature"
        | "auth.device_signature"
        | "auth.list_signature"
        | "auth.user_mismatch"
        | "auth.key_mismatch"
        | "auth.scheme_mismatch"
        | "auth.wrong_user"
        | "auth.wrong_device"
        | "auth.validity"
        | "auth.previous_missing"
        | "auth.successor_user"
        | "auth.successor_device"
        | "auth.successor_user_key"
        | "auth.assurance_fell"
        | "auth.list_sequence"
        | "auth.list_freshness"
        | "auth.not_direct_successor"
        | "auth.broken_chain" => "this proof of who somebody is does not hold; it was not taken",
        "auth.request_proof" => "this request was not made by the device that it names",
        "auth.sealed_key" => {
            "the key in this approval does not open here: it was made for another request of this device"
        }
        "auth.approval_signature" => "this approval was not made by a device of the same user",
        "auth.other_request" => "this approval answers another request than this device's newest",
        "auth.realm_mismatch" | "auth.wrong_realm" => {
            "this belongs to users of another installation"
        }
        "auth.not_yet_valid" => "this proof of who somebody is is not valid yet: a clock is wrong",
        "auth.expired" => "this proof of who somebody is has expired",
        "auth.list_devices" => "a device of that name is approved already, with another key",
        "auth.too_many_devices" => "a user can have at most 32 devices",
        "auth.stale_list" => "a newer list of that user's devices is known here",
        "auth.equivocation" => {
            "there are two different lists of that user's devices under one number: somebody else may use the user's key"
        }
        "auth.not_listed" => "the user's list of devices does not name this device",
        "auth.too_many_pins" => "at most 256 contacts travel with an approval",
        _ => return None,
    }))
}

fn pins(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "pin.changed" | "untrusted.pin_changed" => "this contact is known here with another key",
        "pin.full" => "no more contacts can be kept",
        "pin.unsupported_version" => {
            "the contacts here were written by a newer version of the program"
        }
        "pin.repeated" => "the contacts here are damaged: somebody is in them twice",
        "untrusted.not_pinned" => "this user is not among the contacts here",
        "untrusted.not_compared" => {
            "this contact is not verified, and the group's rules let only verified people in"
        }
        "untrusted.no_evidence" => "nobody whom the group accepts vouches for this user",
        _ => return None,
    }))
}

fn engine(code: &str) -> Option<Sentence> {
    const OWN: [&str; 3] = [
        "engine.waits_for_clock",
        "engine.waits_for_pace",
        "engine.waits_for_recovery",
    ];
    if OWN.contains(&code) {
        // It says which clock, and by how much it is off; when it goes on.
        return Some(Own);
    }
    Some(Fixed(match code {
        "engine.store" => {
            "what is stored here is damaged, or written by a newer version of the program"
        }
        "engine.not_enrolled" => "this device is not approved yet",
        "engine.already_enrolled" => "this device is approved already",
        "engine.no_user_key" => {
            "this device can approve and take away no others: another one of yours can"
        }
        "engine.unknown_device" => "no such device of yours is known here",
        "engine.own_device" => "a device cannot take itself away: another one of yours can",
        "engine.wrong_code" => "this is not the code that belongs to the text of the request",
        "engine.not_verified" => "this user is not verified here",
        "engine.unknown_group" => "no such group is on this device",
        "engine.unknown_document" => "no such document is in the group",
        "engine.unknown_member" => "no such member is in the group",
        "engine.not_founded" => "the service does not have this group yet",
        "engine.no_invitation" => "no invitation to that group is waiting here",
        "engine.no_key_packages" => "none of this user's devices can be invited now",
        "engine.last_owner" => "you are the group's only owner",
        "engine.forbidden" => "your role in the group does not allow this",
        "engine.invalid_policy" => "a group cannot have these rules",
        "engine.inactive" => "this group takes nothing from this device: it was left, or is frozen",
        "engine.returning" => "this device lost its place in the group and is on its way back",
        "engine.no_other_service" => {
            "run `conclave status`: once another service has answered it shows that one's key; compare it with its operator"
        }
        "engine.not_asking" => "that device follows the group by itself and needs no help",
        "engine.last_holder" => "those who go are the only ones who can open some of the documents",
        "engine.out_of_step" => {
            "the service shows an older or another state than this device has; nothing is sent there"
        }
        "engine.waits_for_step" => {
            "the service shows an older or another state than this device has; what was asked for is remembered, and done when that is over"
        }
        "engine.other_life" => "this home is an older copy of this device, which is used elsewhere",
        "engine.only_copy" => "no other copy of this home is in use, as far as is known here",
        "engine.becomes_new" => "this home is becoming a device of its own, and is not done yet",
        "document.not_here" => "nothing of this document is on this device yet",
        "document.held" => "the document took too long, and is not waited for any longer",
        "document.attribution_off" => "this group does not keep who wrote what in its documents",
        "document.no_such_record" => "there is no change of this number that can be declared void",
        "engine.rescued" => "changes of yours have no place any more; they are kept on this device",
        "engine.unknown_rescue" => {
            "nothing is kept under this id; it may have been applied or discarded"
        }
        "engine.unknown_evidence" => "no evidence is kept under this id",
        "engine.no_words" => "nothing of these changes can be written as words",
        "engine.voids_used_up" => {
            "no more records can be declared void by you: what one admin, or the group, may is used up"
        }
        "engine.superseded" => {
            "somebody else changed the group meanwhile, and this is no longer possible"
        }
        "engine.clock_skew" => {
            "this device's clock is wrong, so what others left here looks outdated"
        }

        _ => return None,
    }))
}

fn evidence(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "evidence.version" => "this was made by another version of the program",
        "evidence.generation" => "this is not about a service with that key",
        "evidence.head" => "something in it is not signed by that service as it claims to be",
        "evidence.other_log" => "what was signed is about two different documents or groups",
        "evidence.proof" => "it does not show that the one history goes on from the other",
        "evidence.certificate" => {
            "the device that it is about is not the one that its user vouches for"
        }
        "evidence.record" => "something in it is not signed by the device that it is about",
        "evidence.consistent" => "what was signed can all be true together: it convicts nobody",
        _ => return None,
    }))
}

fn group(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "mls.roster" => "the list of members that came does not add up",
        "mls.forbidden" => "the rules of the group do not allow this",
        "mls.refused" | "mls.panicked" => "what came for the group cannot be taken",
        "mls.damaged" => "what is stored here of the group is damaged",
        "mls.not_member" => "this device is no member of the group",
        "mls.commit_pending" => "another change of this device to the group is still under way",
        "mls.nothing_pending" => "no change to the group is under way",
        "mls.leaving" => "this device is leaving the group",
        "mls.unknown_device" => "that device is no member of the group",
        "mls.clock_skew" => {
            "a change to the group carries a time that lies far ahead of this device's clock"
        }
        "mls.clock_wrong" => "this device's clock does not fit a change to the group",
        "mls.key_package_lifetime" => "what the invited device left for invitations is too old",
        "mls.capabilities" => "the other device runs an older version of the program",
        "mls.no_key_package" => {
            "this invitation is not for what this device keeps: it was sent too long ago, or to an older copy of this device"
        }
        "mls.bad_invitation" => "what came with the invitation does not belong to it",
        "mls.upgrade_needed" => "the group needs a newer version of this program",
        "mls.bad_wrap" => "the keys that a member passed on do not open",
        "mls.illegal_entry" => {
            "an entry in the group's history breaks the rules, and this device does not follow it"
        }
        "mls.undecryptable" => "a change to the group could not be followed here",
        "mls.re_added" => "this device was added to the group again and waits for its invitation",
        "mls.rejoin_lost" => "coming back into the group has to be tried again",
        _ => return None,
    }))
}

fn document(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "doc.crdt" | "crdt_engine" => "the document cannot be changed in this way",
        "doc.stored" => {
            "what is stored here of the document is damaged, or written by a newer version of the program"
        }
        "doc.unknown_kind" => "this kind of document is not known to this version of the program",
        "doc.unknown_snapshot" => {
            "the document begins in a form that is not known to this version of the program"
        }
        "doc.missing_root" => "the keys of a part of the document have not arrived yet",
        "doc.future_epoch" => "the document is ahead of what this device knows of its group",
        "doc.bad_record" => "the state that the document would be opened from is not valid",
        "doc.bad_snapshot" => {
            "a member signed a state of the document that nobody may write: it cannot be opened from there"
        }
        "doc.protocol" => "the service's answer does not fit the question",
        "doc.role" => "your role in the group does not allow this",
        "doc.too_costly" => "no other device would load a document so large, or so much work",
        "doc.too_large" | "crdt_too_large" => "this is more than fits into one edit",
        "doc.set_aside" => "a part of the document that nobody can open is in the way",
        "doc.not_now" => "this cannot be done just now",
        "crdt_malformed" => "this is no content of this kind of document",
        "crdt_missing_dependency" => "earlier parts of the document are missing",
        "crdt_equivocation" => "two different edits carry the same mark: one of them was not taken",
        "crdt_panicked" | "crdt_poisoned" => "the document failed here and is being read anew",
        "crdt_invalid_argument" => "the edit does not fit the document as it is now",
        _ => return None,
    }))
}

fn refused(code: &str) -> Option<Sentence> {
    Some(Fixed(match code {
        "refused.stale_epoch"
        | "refused.clock_gap"
        | "refused.already_accepted"
        | "refused.snapshot_required"
        | "refused.proposal_pending"
        | "refused.epoch_taken"
        | "refused.stale_device_list"
        | "refused.no_channel" => {
            "something else came first at the service; it is done again by itself"
        }
        "refused.forbidden" => "the service does not allow this",
        "refused.too_large" => "this is more than the service takes at once",
        "refused.rate_limited" => "the service was asked too often",
        "refused.upgrade_needed" => {
            "the service or the group needs a newer version of this program"
        }
        "refused.bad_commit" => "the service found this change to the group not valid",
        "refused.bad_record" => "the service found this edit not valid",
        "refused.unknown_group" => {
            "the service knows no such group, or none that this device may know of"
        }
        "refused.unknown_document" => "the service knows no such document",
        "refused.unknown_user" => "the service does not know this user yet",
        "refused.document_closed" => "the document is closed",
        "refused.already_exists" => "this is at the service already",
        "refused.malformed" => "the service did not understand this",
        "refused.bad_identity" => "the service does not accept this proof of who somebody is",
        "refused.recovering" => {
            "the service was put back, and collects what it lost before it takes anything new there"
        }
        "refused.storage" => "the service could not store this; nothing was taken",
        "refused.shutting_down" => "the service is stopping",
        "refused.unauthenticated" => "the service does not accept this device's proof of who it is",
        "refused.other_life" => {
            "this home is an older copy of this device, which is used elsewhere"
        }
        _ => return None,
    }))
}

/// What a person can do about an error, where there is something.
pub fn hint(code: &str) -> Option<&'static str> {
    Some(match code {
        "store.missing" => {
            "create one with `conclave init --name NAME`, or name another folder with --home"
        }
        "store.exists" => {
            "this home is set up already; `conclave whoami` shows it, --home names another one"
        }
        "store.in_use" => {
            "another process has this store open and does not answer; end it, or use another --home"
        }
        "store.wrong_secret" => "check the passphrase (or --key-file) and try again",
        "store.secret_kind" => {
            "this store is unlocked by another kind of secret: use --key-file FILE, --keyring, or a passphrase without them"
        }
        "store.keyring" => {
            "unlock the keyring of this system, or use a passphrase or --key-file FILE; `conclave device passphrase` changes what a store opens with"
        }
        "store.keyring_entry" => {
            "open it as the user and on the system that made it; a new device can be approved by your others"
        }
        "store.old_schema" => {
            "get your documents out with the program that wrote it (`conclave doc export`), then make a device in another --home with this one, and put them in with `conclave doc import`"
        }
        "store.unknown_schema" | "store.unknown_format" => "update this program",
        "store.permissions" => {
            "only you may read this: run `chmod 600` on the file (700 on a folder)"
        }
        "store.key_file" => "this is no key file; `conclave init --key-file FILE` makes one",
        "store.file" => "check the path and its permissions",
        "store.full" => "make room on the disk and try again",
        "store.refused" => {
            "make room on the disk, or raise the quota or `ulimit -f`, and try again"
        }
        "store.damaged" | "store.row_damaged" | "store.rows_changed" => {
            "restore the home folder from a copy, or make a new device and have it approved"
        }
        "engine.not_enrolled" => {
            "on this device run `conclave device request`, approve its text on another of your devices, then `conclave device finish TEXT`"
        }
        "engine.already_enrolled" => "nothing to do: `conclave whoami` shows this device",
        "engine.no_user_key" => {
            "use the device on which the user was created, or another that can approve: `conclave device list` there says which"
        }
        "engine.wrong_code" => "read both again on the new device: `conclave device request`",
        "engine.not_verified" => {
            "exchange contact texts: `conclave whoami` there, `conclave verify TEXT --compared` here"
        }
        "engine.unknown_group" | "client.no_group" => {
            "list groups with `conclave group list`, invitations with `conclave group invitations`"
        }
        "engine.unknown_document" | "client.no_document" => {
            "list documents with `conclave doc list`"
        }
        "engine.unknown_member" => "list members with `conclave group members GROUP`",
        "engine.no_invitation" => {
            "list invitations with `conclave group invitations`; ask the inviter whether it was sent"
        }
        "engine.no_key_packages" | "mls.key_package_lifetime" => {
            "ask them to run any command that connects, such as `conclave status`, and try again"
        }
        "engine.last_owner" => {
            "make somebody else an owner first: `conclave group role GROUP USER owner`"
        }
        "engine.forbidden" | "mls.forbidden" | "refused.forbidden" => {
            "ask an admin or owner of the group; `conclave group members GROUP` shows who they are"
        }
        "engine.inactive" | "client.group_lost" | "mls.not_member" => {
            "`conclave group list` says why; ask a member to invite you again"
        }
        "engine.out_of_step" => {
            "nothing is remembered of this: ask again when it is over; `conclave findings list` says more, or the operator of the service"
        }
        "engine.waits_for_step" => {
            "`conclave findings list` says more; ask the operator of the service"
        }
        "engine.only_copy" => {
            "another device of yours has a home of its own: `conclave --home DIR init --device`"
        }
        "engine.becomes_new" => "`conclave device become-new` goes on",
        "engine.other_life" | "refused.other_life" => super::connection::OTHER_LIFE_HINT,
        "document.not_here" => {
            "it comes with the next command that reaches the service: leave out --offline, check the network, or wait longer with --timeout SECONDS"
        }
        "pause.full" | "pause.on" => {
            "`conclave doc resume DOCUMENT`, or `conclave device resume` where the whole device is paused"
        }
        "document.held" => {
            "close the program that has the store open (`doc watch`, for example), then try again; `conclave doc status DOCUMENT` says where it takes so long"
        }
        "document.no_such_record" => {
            "`conclave doc status DOCUMENT` on the device that is stuck says the number; what is part of the saved state already cannot be taken out"
        }
        "presence.too_much" => "shorten what is shown",
        "document.attribution_off" => {
            "an admin can have it kept from now on: `conclave group policy set GROUP --attribution on`"
        }
        "presence.too_many_states" => {
            "close a window or end a command that shows something in the document, or show nothing in this one"
        }
        "presence.too_many" => "end watching or showing in some documents",
        "engine.rescued" | "rescue.full" | "engine.unknown_rescue" => {
            "`conclave rescue list` shows what is kept; `rescue apply` writes it into a document, `rescue discard` throws it away"
        }
        "engine.unknown_evidence" => "`conclave evidence list` shows what is kept",
        "engine.no_words" => "`conclave rescue show ID --json` holds the changes as they were made",
        "engine.superseded" => "look at `conclave group members GROUP` and decide again",
        "engine.clock_skew" | "mls.clock_skew" | "mls.clock_wrong" => {
            "`conclave status` shows by how much this device's clock is off; set it"
        }
        "engine.waits_for_clock" => {
            "what is wanted is kept here, and goes on by itself then; a clock that is right already needs nothing set: tell the operator of the service, or use --trust-service-clock"
        }
        "engine.waits_for_recovery" => {
            "what is wanted is kept here, and goes on by itself then, with any command or while `conclave agent` runs: it need not be asked for again; whoever has more of the group than the service brings it back by opening their device"
        }
        "engine.waits_for_pace" => {
            "what is wanted is kept here, and goes on by itself then, with any command or while `conclave agent` runs: it need not be asked for again"
        }
        "engine.voids_used_up" => {
            "ask an owner of the group: owners can declare more; or copy the document into a new one, and delete this one"
        }
        "invitation.group_taken" => {
            "if you do not expect it, decline it: that changes nothing in the group"
        }
        "client.timed_out" => {
            "check the network and --server; it is tried again by the next command, or keep `conclave agent` running"
        }
        "client.endpoint" => "write --server as wss://host or ws://host:port",
        "client.wrong_kind" | "client.no_view" => "`conclave doc list` shows each document's kind",
        "client.local" => "end the process that has the store open, or wait until it is done",
        "refused.rate_limited"
        | "refused.shutting_down"
        | "doc.not_now"
        | "crdt_panicked"
        | "crdt_poisoned" => "wait a moment and try again",
        "refused.recovering" => {
            "bring other devices online that may have what is missing; what you write is kept here and sent afterwards"
        }
        "refused.storage" => "try again later, and tell the operator of the service",
        "doc.too_costly" => "begin it with a part, or with its text alone, and add the rest later",
        "refused.too_large" | "doc.too_large" | "crdt_too_large" => "split it into several steps",
        "refused.unknown_user" => {
            "ask them to run any command that connects, such as `conclave status`"
        }
        "refused.malformed"
        | "refused.bad_commit"
        | "refused.bad_record"
        | "client.unexpected_answer"
        | "mls.panicked"
        | "mls.refused" => "this should not happen: report it with what --verbose says",
        "decode.malformed"
        | "decode.trailing_bytes"
        | "decode.too_large"
        | "doc.protocol"
        | "doc.bad_record"
        | "mls.roster" => "try again; if it stays tell the operator of the service",
        "doc.bad_snapshot" => {
            "`conclave findings list` says who it was: ask them. Whoever has the document open can copy it into a new one, and an admin can delete this one"
        }
        "engine.last_holder" => {
            "wait until others have taken over their keys, which `conclave agent` shows; or insist with --anyway"
        }
        "engine.not_founded"
        | "engine.returning"
        | "mls.re_added"
        | "mls.rejoin_lost"
        | "mls.undecryptable"
        | "mls.damaged"
        | "doc.missing_root"
        | "doc.future_epoch"
        | "crdt_missing_dependency" => {
            "connect, with any command or `conclave agent`, and try again"
        }
        "mls.leaving" => "another member has to be online once for it",
        "mls.illegal_entry" => {
            "`conclave group evidence GROUP` shows what it is; an admin can found the group anew with `conclave group restart GROUP`"
        }
        "mls.no_key_package" | "mls.bad_invitation" => {
            "decline it, and ask to be invited again: `conclave group decline GROUP`"
        }
        "mls.capabilities" => "ask them to update the program",
        "doc.set_aside" => "an admin can go on without it: `conclave doc void DOCUMENT`",
        "doc.role" => {
            "ask an admin or owner of the group; `conclave group members GROUP` shows who they are"
        }
        "auth.not_yet_valid" | "auth.expired" => "check the clocks of both devices",
        "auth.other_request" | "auth.request_proof" | "auth.approval_signature" => {
            "begin again with `conclave device request`, and use the newest texts"
        }
        "auth.unsupported_version"
        | "auth.unsupported_scheme"
        | "auth.unsupported_credential"
        | "auth.unsupported_rotation"
        | "mls.upgrade_needed"
        | "refused.upgrade_needed"
        | "doc.unknown_kind"
        | "doc.unknown_snapshot" => "update this program",
        "auth.equivocation" => "ask the person, face to face or by voice",
        "client.crashed" => "try again; everything that was acknowledged is stored",
        "client.local_version" => {
            "end the other process, `conclave agent` for example, and start it again"
        }
        "refused.document_closed" => {
            "the document was put away or deleted; `conclave doc list` shows it"
        }
        "refused.bad_identity" | "refused.unauthenticated" => {
            "the service does not take this device; ask its operator, or use --token"
        }
        "name.empty" | "name.too_long" | "name.control" | "name.untrimmed" => {
            "a name has 1 to 64 visible characters"
        }
        other if other.starts_with("text.") => {
            "copy the whole text, from `conclave:` to its last letter"
        }
        "untrusted.not_pinned" | "untrusted.not_compared" | "untrusted.no_evidence" => {
            "exchange contact texts: `conclave whoami` there, `conclave verify TEXT --compared` here"
        }
        other if other.starts_with("merkle.") || other.starts_with("auth.") => {
            "do not trust it: ask the person, or the operator of the service"
        }
        other if other.starts_with("pin.") || other.starts_with("untrusted.") => {
            "somebody else is known under this name or key: look at `conclave contacts` and ask them in person"
        }
        _ => return None,
    })
}
