//! Every example runs to its end. Each checks its own result, so that one that stops working fails here.

#![allow(clippy::unwrap_used)]

#[path = "../examples/bot.rs"]
mod bot;
#[path = "../examples/embedded.rs"]
mod embedded;
#[path = "../examples/second_device.rs"]
mod second_device;
#[path = "../examples/shared_note.rs"]
mod shared_note;
#[path = "../examples/task_list.rs"]
mod task_list;

#[test]
fn two_people_share_a_note() {
    shared_note::main().unwrap();
}

#[test]
fn a_task_list_is_edited_without_a_network() {
    task_list::main().unwrap();
}

#[test]
fn a_second_device_joins() {
    second_device::main().unwrap();
}

#[test]
fn service_and_client_live_in_one_process() {
    embedded::main().unwrap();
}

#[test]
fn a_bot_answers() {
    bot::main().unwrap();
}
