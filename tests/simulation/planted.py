"""Bugs that the tests must catch: each a small change of the source, and the test that fails because of it.

`python -m tests.simulation.planted` plants each into a copy of the source tree and runs its test there; it
says which were not caught. Each text must occur exactly once in its file, so that the table stays true.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SESSION = "supervisor/core/session"
TEST_SECONDS = 240.0  # for one test in the copy
_FAILED = 1  # pytest's exit code when tests ran and some failed


@dataclass(frozen=True)
class Bug:
    """A mistake that somebody could make."""

    name: str
    file: str
    good: str
    bad: str
    test: str  # the test that must fail


BUGS = (
    Bug(
        "doubt about the uplink is forgotten",
        f"{SESSION}/tunnel_set.py",
        "        tunnel_set.uplink.doubted,\n",
        "        False,\n",
        "tests/simulation/test_uplink.py::test_while_the_uplink_is_in_doubt_no_session_is_given_up",
    ),
    Bug(
        "the uplink counts as alive",
        f"{SESSION}/tunnel_set.py",
        "        tunnel_set.uplink.alive,\n",
        "        True,\n",
        "tests/simulation/test_uplink.py::test_one_incident_names_the_uplink_and_no_client_is_restarted",
    ),
    Bug(
        "nobody is told that the uplink is back",
        f"{SESSION}/tunnel_set.py",
        "if event.alive else ()",
        "if not event.alive else ()",
        "tests/simulation/test_uplink.py::test_clients_that_ended_meanwhile_wait_and_then_do_not_all_start_at_once",
    ),
    Bug(
        "two rivals reconnect at the same time",
        f"{SESSION}/tunnel_set.py",
        "event = replace(event, free=event.free and not _hindered(tunnel_set, tunnel.name))",
        "pass",
        "tests/simulation/test_planned.py::test_of_a_pair_only_one_reconnects_at_a_time",
    ),
    Bug(
        "a gateway sees all clients at once",
        f"{SESSION}/tunnel_set.py",
        "return tunnel_set if pacer is tunnel_set.pacer else replace(tunnel_set, pacer=pacer)",
        "return tunnel_set",
        "tests/simulation/test_logins.py::test_clients_of_one_gateway_knock_one_after_the_other",
    ),
    Bug(
        "each tunnel of an account counts its refusals for itself",
        f"{SESSION}/tunnel_set.py",
        "told = replace(theirs.retry, refusals=retry.refusals, login_after=retry.login_after)",
        "told = theirs.retry",
        "tests/simulation/test_logins.py::test_what_cannot_work_is_not_tried_again_and_again",
    ),
    Bug(
        "an accepted login does not wake the other tunnels of the account",
        f"{SESSION}/tunnel_set.py",
        "woken.append(ev.InputsChanged(other))",
        "pass",
        "tests/simulation/test_logins.py::test_the_success_of_one_wakes_the_others",
    ),
    Bug(
        "a tunnel that is removed can be started again",
        f"{SESSION}/tunnel_set.py",
        "if member is None or _too_late(tunnel_set, event):",
        "if member is None:",
        "tests/simulation/test_worlds.py::test_a_tunnel_that_is_being_removed_cannot_be_wished_back",
    ),
    Bug(
        "a tunnel that was removed is never forgotten",
        f"{SESSION}/tunnel_set.py",
        "return name in tunnel_set.leaving and state.phase is Phase.STOPPED and state.standby is None",
        "return False",
        "tests/simulation/test_worlds.py::test_a_removed_tunnel_is_stopped_and_then_forgotten_everywhere",
    ),
    Bug(
        "the deadlines of the standby are never reached",
        f"{SESSION}/deadlines.py",
        "        yield from _reached(name, state.standby, now, number, number)\n",
        "        pass\n",
        "tests/simulation/test_planned.py::test_random_histories",
    ),
    Bug(
        "the first login with an account is not awaited",
        f"{SESSION}/pacing.py",
        "    return now + RECHECK_SECONDS if trying else 0.0",
        "    return 0.0",
        "tests/simulation/test_logins.py::test_the_first_login_with_an_account_is_awaited",
    ),
    Bug(
        "a ban does not outlive the daemon",
        f"{SESSION}/pacing.py",
        "        return pacer.shut(gateway, state.deadline) if",
        "        return pacer.shut(gateway, 0.0) if",
        "tests/simulation/test_crashes.py::test_a_ban_and_a_backoff_outlive_the_daemon",
    ),
    Bug(
        "a client that ignores SIGKILL is killed only once",
        f"{SESSION}/machine.py",
        "later = replace(session, deadline=c.now + KILL_INTERVAL_SECONDS)",
        "later = replace(session, deadline=None)",
        "tests/core/test_machine.py::test_a_client_that_ignores_sigterm_is_killed_again_and_again",
    ),
    Bug(
        "a session is restarted again and again because of hearsay",
        f"{SESSION}/machine.py",
        "replace(liveness, gave_up_on_hearsay=hearsay)",
        "liveness",
        "tests/simulation/test_blame.py::"
        "test_packets_that_answer_nobody_save_a_session_for_five_minutes_and_the_next_one_for_good",
    ),
    Bug(
        "a dead destination costs the session",
        f"{SESSION}/machine.py",
        "if dead is Leg.DESTINATION and evidence is not None:",
        "if False:",
        "tests/simulation/test_blame.py::test_a_destination_that_is_dead_for_a_day_costs_no_session_and_calls_once",
    ),
    Bug(
        "a silent session is ended although the network is dead",
        f"{SESSION}/silence.py",
        "    if state.endpoint is Reach.SILENT:\n        return True\n",
        "",
        "tests/simulation/test_silence.py::test_a_silence_of_the_network_costs_no_login",
    ),
    Bug(
        "a session is given up before the protocol could show that it lives",
        f"{SESSION}/silence.py",
        "    return not state.endpoint_returned and undecided(c, active)\n",
        "    return False\n",
        "tests/simulation/test_protocol_signs.py::"
        "test_a_filter_of_eight_minutes_costs_at_most_one_login_and_blames_the_destination",
    ),
    Bug(
        "the protocol's sign of life counts for nothing",
        f"{SESSION}/protocol_signs.py",
        "    return _of_protocol(c, session) or seen\n",
        "    return seen\n",
        "tests/simulation/test_protocol_signs.py::"
        "test_a_filter_of_eight_minutes_costs_at_most_one_login_and_blames_the_destination",
    ),
    Bug(
        "what the gateway sent before the probes were missed is a sign of life",
        f"{SESSION}/protocol_signs.py",
        "    if said.seen and before is not None:\n",
        "    if said.seen:\n",
        "tests/simulation/test_protocol_signs.py::"
        "test_what_came_before_the_probes_were_missed_is_no_sign_of_life",
    ),
    Bug(
        "packets that come back to staff count for nothing",
        f"{SESSION}/machine.py",
        "    if event.proof in (Proof.TRAFFIC, Proof.REPEATED):\n",
        "    if event.proof is Proof.REPEATED:\n",
        "tests/simulation/test_probe_targets.py::"
        "test_a_session_that_passes_real_traffic_is_well_and_its_dead_targets_are_told",
    ),
    Bug(
        "a suspicion moves nothing to another tunnel",
        "supervisor/core/network/failover.py",
        "    fit = [candidate for candidate in stays if sound(*candidate)] or stays\n",
        "    fit = stays\n",
        "tests/core/test_announcements.py::"
        "test_a_suspected_tunnel_gives_new_flows_to_another_one_that_is_not",
    ),
    Bug(
        "a dead target beside a living one is told nowhere",
        "supervisor/core/conditions.py",
        "        if dead and state.phase is Phase.UP and well(tunnel, state):\n",
        "        if False:\n",
        "tests/simulation/test_probe_targets.py::"
        "test_one_dead_target_beside_a_living_one_warns_once_and_restarts_nothing",
    ),
    Bug(
        "the session that answers again is replaced all the same",
        f"{SESSION}/silence.py",
        "    gone = withdrawn(c, state.standby, Reason.PLANNED)\n",
        "    return step\n",
        "tests/simulation/test_silence.py::"
        "test_the_old_session_that_answers_first_is_kept_and_the_other_one_logged_off",
    ),
    Bug(
        "the pause grows although nobody was reached",
        f"{SESSION}/retry.py",
        "    return never_connected or endpoint is Reach.SILENT\n",
        "    return False\n",
        "tests/simulation/test_silence.py::"
        "test_attempts_that_nothing_answers_come_at_most_five_seconds_apart_for_ever",
    ),
    Bug(
        "all tunnels start at once when the network is back",
        f"{SESSION}/pacing.py",
        "return RetryBudget((*self.moments, now)[-MOST_RETRIES:])",
        "return self",
        "tests/simulation/test_silence.py::"
        "test_after_a_cut_of_all_gateways_few_processes_start_at_once_and_all_are_back_within_ten_seconds",
    ),
    Bug(
        "the client is not asked to reconnect in place",
        f"{SESSION}/silence.py",
        "if c.kind.renew and not state.spare and not active.session.renewed:",
        "if False:",
        "tests/simulation/test_logins.py::test_the_client_reconnects_in_place_before_it_is_given_up",
    ),
    Bug(
        "a question is not waited for",
        f"{SESSION}/machine.py",
        "    deadline = until if known is None else min(until, known)\n",
        "    deadline = session.deadline\n",
        "tests/simulation/test_logins.py::test_a_question_may_take_minutes_and_ends_cleanly",
    ),
    Bug(
        "attempts never slow down",
        f"{SESSION}/tunnel_machine.py",
        "attempts=retry.attempts + (not retry.unreached))",
        "attempts=retry.attempts)",
        "tests/simulation/test_worlds.py::test_a_dead_far_side_is_knocked_at_ever_more_rarely_but_for_ever",
    ),
    Bug(
        "a wrong password is tried for ever",
        f"{SESSION}/tunnel_machine.py",
        "refusals=retry.refusals + (reason is Reason.AUTH),",
        "refusals=retry.refusals,",
        "tests/simulation/test_worlds.py::"
        "test_a_wrong_password_means_three_attempts_in_a_simulated_day_and_one_incident_at_once",
    ),
    Bug(
        "a cause that somebody cures is retried without growing pauses",
        f"{SESSION}/tunnel_machine.py",
        "suspicions=counts + (retry.suspicions if counts and not lasted else 0),",
        "suspicions=1,",
        "tests/simulation/test_logins.py::test_what_somebody_has_to_cure_pages_once_and_is_retried_ever_more_slowly",
    ),
    Bug(
        "a set clock changes nothing",
        f"{SESSION}/tunnel_set.py",
        "events=tuple([ev.ClockSet(name) for name in tunnel_set.members])",
        "events=()",
        "tests/simulation/test_logins.py::test_a_set_clock_is_tried_at_once_where_it_may_have_been_the_cause",
    ),
    Bug(
        "each time that the clock is set costs a refused account a login",
        f"{SESSION}/tunnel_machine.py",
        "and retry.refusals <= c.tunnel.login.max_attempts\n",
        "and True\n",
        "tests/simulation/test_logins.py::test_a_clock_that_is_set_again_and_again_costs_one_login_of_a_refused_account",
    ),
    Bug(
        "a password that has worked is given up",
        f"{SESSION}/retry.py",
        "        case Retry.LOGIN if retry.proven:\n",
        "        case Retry.LOGIN if False:\n",
        "tests/simulation/test_logins.py::test_a_password_that_worked_is_retried_hourly_within_three_logins_an_hour",
    ),
    Bug(
        "a renegotiation that waits for somebody is taken for a dead tunnel",
        f"{SESSION}/machine.py",
        "    if _halted(session, c.now):\n",
        "    if False:\n",
        "tests/simulation/test_logins.py::test_a_renegotiation_that_waits_for_an_answer_ends_no_session",
    ),
    Bug(
        "a renegotiation waits for an answer for ever",
        f"{SESSION}/machine.py",
        "    if asking is not None and asking.until <= c.now:\n",
        "    if False:\n",
        "tests/simulation/test_logins.py::test_a_renegotiation_that_nobody_answers_ends_as_a_challenge",
    ),
    Bug(
        "a code that no client was given is lost",
        "supervisor/clients/questions.py",
        "                self.codes.give_back(booking)\n",
        "                pass\n",
        "tests/clients/test_codes.py::test_a_session_that_ends_before_its_turn_costs_no_code",
    ),
    Bug(
        "no code is booked before a renegotiation",
        "supervisor/clients/questions.py",
        "            self.timer = loop.call_later(EARLIEST_SHARE * age, self._hold, seed, until)\n",
        "            pass\n",
        "tests/clients/test_codes.py::test_a_code_is_booked_before_a_renegotiation_and_another_login_waits_instead",
    ),
    Bug(
        "steps that were used while the clock was ahead stay used",
        "supervisor/clients/totp.py",
        "    return 0 if wrong else last\n",
        "    return last\n",
        "tests/clients/test_codes.py::test_a_clock_that_was_ahead_and_is_corrected_delays_nobody",
    ),
    Bug(
        "an open incident keeps the text of its first cause",
        "supervisor/reports/paging/incident.py",
        "    if action is None and wanted and updates and not incident.refused_fingerprint:\n",
        "    if False:\n",
        "tests/reports/test_outbox.py::"
        "test_an_open_incident_whose_cause_somebody_has_to_cure_is_updated_at_once_and_once",
    ),
    Bug(
        "time in which the host stood still counts as up",
        "supervisor/reports/history/standstill.py",
        "if seconds >= STANDSTILL_SECONDS else None",
        "if False else None",
        "tests/history/test_standstill.py::test_ninety_seconds_in_which_the_host_stood_still_were_not_monitored",
    ),
    Bug(
        "a person is told of a curable failure only after a while",
        f"{SESSION}/retry.py",
        "    return page is Page.AT_ONCE or",
        "    return False or",
        "tests/simulation/test_logins.py::test_what_somebody_has_to_cure_pages_once_and_is_retried_ever_more_slowly",
    ),
    Bug(
        "a session number is used again",
        f"{SESSION}/handover.py",
        "    number = standby.session.number + 1\n",
        "    number = standby.session.number\n",
        "tests/simulation/test_planned.py::test_random_histories",
    ),
    Bug(
        "new flows enter a session that is not proven",
        f"{SESSION}/handover.py",
        "if _same_address(active, standby) or well(c.tunnel, standby):",
        "if True:",
        "tests/simulation/test_planned.py::test_a_successor_through_which_nothing_passes_never_carries",
    ),
    Bug(
        "a standby is no reconnect when the active session ends",
        f"{SESSION}/handover.py",
        "    if state.spare and state.phase is not Phase.UP and state.want is Want.UP:\n",
        "    if False:\n",
        "tests/simulation/test_planned.py::test_the_session_ends_while_its_successor_starts",
    ),
    Bug(
        "the flows of the replaced session are cut",
        f"{SESSION}/handover.py",
        "    if replaced or silent:\n",
        "    if True:\n",
        "tests/simulation/test_planned.py::test_both_sessions_live_until_the_flows_of_the_first_are_over",
    ),
    Bug(
        "a gateway that ends the first session is not remembered",
        f"{SESSION}/handover.py",
        "return Step(_taught(state, Second.ENDS) if own_end and soon else state, ended=over)",
        "return Step(state, ended=over)",
        "tests/simulation/test_planned.py::test_a_far_side_that_ends_the_first_session_is_remembered",
    ),
    Bug(
        "a refused login is repeated while the session lives",
        f"{SESSION}/handover.py",
        "if state.retry.refusals:  #",
        "if False:  #",
        "tests/simulation/test_planned.py::test_a_refused_login_is_not_repeated_while_the_session_lives",
    ),
    Bug(
        "what an operator asks does not end the standby",
        f"{SESSION}/handover.py",
        "    if event.until is not None and not state.coming:\n",
        "    if True:\n",
        "tests/simulation/test_planned.py::test_what_an_operator_asks_ends_both",
    ),
    Bug(
        "the end of a session is told twice",
        f"{SESSION}/transitions.py",
        "ended.pop(before.active.session.number, None)",
        "ended.get(before.active.session.number)",
        "tests/simulation/test_planned.py::test_random_histories",
    ),
    Bug(
        "nothing is learned about how long sessions last",
        f"{SESSION}/step.py",
        "            known = lengthened(known, c.now - connected, reasons[number], before.endpoint, was.health)\n",
        "            pass\n",
        "tests/simulation/test_planned.py::test_a_limit_that_nobody_has_told_is_learned_and_met",
    ),
    Bug(
        "planned reconnects are not spread",
        f"{SESSION}/lifetime.py",
        "return latest - jitter * min(margin, SHARE * length)",
        "return latest",
        "tests/simulation/test_planned.py::test_twenty_tunnels_do_not_go_together",
    ),
    Bug(
        "a replaced daemon's clients are started a second time",
        f"{SESSION}/record.py",
        "        active=active,\n        standby=standby,\n        retry=replace(state.retry, resumable=kept)",
        "        active=active,\n        standby=None,\n        retry=replace(state.retry, resumable=kept)",
        "tests/simulation/test_crashes.py::test_a_planned_reconnect_goes_on_over_crashes",
    ),
    Bug(
        "refused logins are forgotten with a crash",
        f"{SESSION}/record.py",
        "retry=replace(state.retry, resumable=kept)",
        "retry=replace(state.retry, refusals=0)",
        "tests/simulation/test_crashes.py::test_a_crash_loop_does_not_multiply_logins",
    ),
    Bug(
        "a client ends before its traffic has moved",
        "supervisor/engine.py",
        "                self._parting.append((tunnel, action))\n",
        "                self._out.order(tunnel, action)\n",
        "tests/simulation/test_order.py::test_traffic_moves_to_another_tunnel_before_a_client_ends",
    ),
)


def copied(directory: Path) -> Path:
    """The source tree, as far as the tests above need it."""
    for part in ("supervisor", "tunnels", "common", "hub", "tests"):
        shutil.copytree(ROOT / part, directory / part, ignore=shutil.ignore_patterns("__pycache__", "lab"))
    shutil.copy(ROOT / "pyproject.toml", directory)
    return directory


def caught(bug: Bug, directory: Path) -> bool:
    """Plant the bug into a copy of the tree, and see whether its test fails there."""
    file = directory / bug.file
    text = file.read_text()
    assert text.count(bug.good) == 1, f"{bug.name}: {bug.file} has the text {text.count(bug.good)} times"
    file.write_text(text.replace(bug.good, bug.bad))
    try:
        run = subprocess.run(  # noqa: S603 - our own tests
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-n", "0", bug.test],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=TEST_SECONDS,
            check=False,
        )
    finally:
        file.write_text(text)
    return run.returncode == _FAILED


def main() -> int:
    """Say of each bug whether it is caught; 1 if one is not."""
    missed = 0
    with tempfile.TemporaryDirectory() as directory:
        tree = copied(Path(directory))
        for bug in BUGS:
            found = caught(bug, tree)
            missed += not found
            print("caught" if found else "MISSED", f"{bug.name}: {bug.test}", flush=True)
    print(f"{len(BUGS) - missed} of {len(BUGS)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
