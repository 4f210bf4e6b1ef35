//! What every backend has to pass.
//!
//! `storage_suite!(name, Database)` makes one test of each check, on one backend. Each check is an ordinary function over a
//! [`crate::database::Database`], with a database of its own.

pub mod adopted;
pub mod based;
pub mod dump;
pub mod failures;
pub mod groups;
pub mod heads;
pub mod holds;
pub mod identity;
pub mod lives;
pub mod logs;
mod lost;
pub mod random;
pub mod recovery;
pub mod returned;
pub mod runs;
mod story;
pub mod tails;
pub mod usage;

/// One test of each check, on one backend.
#[macro_export]
macro_rules! storage_suite {
    ($name:ident, $database:ty) => {
        mod $name {
            use super::*;
            use $crate::suite::{
                adopted, based, failures, groups, heads, holds, identity, lives, logs, random, recovery, returned, runs,
                tails, usage,
            };

            $crate::storage_suite!(@each $database;
                random::batches_come_to_the_same,
                runs::no_run_ends_uncovered,
                runs::no_cut_leaves_room_for_another,
                runs::cheat_pays_single_checks,
                runs::covers_are_near,
                heads::a_frame_loads_at_once_what_its_heads_need,
                logs::clocks_gaps_and_wrong_predecessors_are_refused,
                logs::a_new_instance_closes_older_ones,
                logs::refused_operations_leave_no_row,
                logs::stretches_are_bounded_and_without_gaps,
                logs::records_are_read_as_they_were_written,
                logs::a_carried_record_is_one_in_its_carriers_chain,
                logs::snapshots_follow_each_other_and_lose_their_content,
                logs::what_was_replaced_at_one_time_goes_in_one_order,
                groups::two_commits_for_an_epoch,
                groups::append_and_commit_never_cross,
                groups::entry_and_first_snapshot_come_together,
                groups::rotation_is_not_complete_while_one_is_due,
                groups::a_welcome_comes_with_its_commit,
                groups::epochs_are_kept_while_a_welcome_needs_them,
                groups::wraps_are_limited,
                groups::pleas_are_limited,
                identity::a_package_is_given_once,
                identity::many_devices_of_an_account_keep_nobody_waiting,
                identity::the_last_resort_comes_last,
                identity::an_invitation_is_used_up,
                identity::a_revoked_device_loses_what_it_had,
                identity::whom_a_list_does_not_name_is_not_added,
                recovery::a_generation_follows_the_one_it_was_made_for,
                recovery::old_and_true_reports_change_nothing,
                recovery::a_report_ahead_declares_once,
                recovery::a_head_of_a_generation_that_was_lost_declares,
                recovery::a_held_log_takes_nothing_and_says_how_much_it_wants,
                recovery::a_log_that_grew_since_is_not_held,
                recovery::a_loss_is_of_what_was_kept,
                recovery::a_log_that_went_another_way_waits_for_nothing,
                recovery::a_hold_over_all_ends_when_its_time_is_over,
                recovery::a_report_holds_all_logs_for_a_while,
                recovery::packages_from_before_are_not_handed_out,
                holds::a_generation_waits_anew_for_what_was_waited_for,
                holds::what_nothing_proves_comes_back_before_anything_new,
                holds::what_nothing_proves_comes_back_for_so_long,
                holds::an_offer_is_judged_by_the_group_as_it_stands,
                tails::a_document_comes_back_though_its_authors_have_left,
                holds::what_an_adopted_group_lacks_is_waited_for_a_day,
                returned::a_removal_that_was_lost_comes_back_and_stands,
                returned::entries_reordered_altered_or_cut_store_nothing,
                returned::what_no_signature_proves_comes_back_while_the_log_stands,
                returned::commits_on_both_sides_the_second_is_refused,
                returned::a_commit_without_its_group_info_or_wrap_is_refused,
                returned::who_the_offer_removes_may_not_bring_it,
                returned::who_the_offer_adds_may_bring_it,
                returned::a_welcome_comes_back_from_the_committers_bundle,
                returned::a_document_comes_back_with_its_first_snapshot,
                returned::what_leads_to_the_head_is_judged_all_the_same,
                returned::a_document_begins_again_only_with_its_own_snapshot,
                tails::records_of_former_epochs_come_back_only_before_those_of_later_ones,
                tails::a_document_begins_again_by_who_listed_it,
                tails::an_offer_is_taken_up_to_so_many_checks,
                tails::a_rotation_that_is_said_to_be_complete_hides_nothing_that_is_due,
                adopted::a_service_that_has_nothing_takes_a_group_from_a_member,
                adopted::a_group_that_has_had_no_commit_is_taken_too,
                adopted::not_from_a_stranger_and_not_twice,
                adopted::an_adopted_group_takes_what_members_have_beyond_it,
                adopted::what_is_known_to_be_lost_is_waited_for,
                adopted::who_is_behind_the_base_sees_a_gap,
                adopted::an_id_that_another_group_keeps_is_freed,
                adopted::what_was_judged_before_a_generation_is_not_adopted_in_it,
                based::a_document_goes_on_from_a_snapshot_of_which_nobody_has_more,
                based::what_does_not_belong_to_its_base_stores_nothing,
                based::only_a_group_that_was_brought_takes_a_document_from_a_base,
                based::what_is_asked_below_the_base_is_refused,
                based::what_others_have_beyond_it_follows,
                lives::a_write_of_an_older_session_is_refused,
                lives::an_append_is_there_before_the_next_login_or_never,
                lives::a_lost_confirmation_bars_nobody,
                lives::a_login_that_comes_late_bars_nobody,
                lives::an_older_copy_is_told_since_when,
                lives::take_over_stops_the_other,
                lives::a_service_that_was_put_back_lets_its_devices_in,
                usage::counters_are_what_is_stored,
                usage::past_a_limit_nothing_more_is_stored,
                failures::after_a_failure_it_is_as_before_or_as_after,
                failures::what_finds_room_is_stored,
                failures::a_crash_after_the_commit_is_answered_again,
                failures::two_drivers_share_a_database,
                failures::an_abandoned_transaction_was_not,
            );
        }
    };
    (@each $database:ty; $($module:ident::$check:ident,)*) => {
        $(
            #[tokio::test]
            async fn $check() -> anyhow::Result<()> {
                $module::$check::<$database>().await
            }
        )*
    };
}
